"""Names of files and folders that a user gives.

Builds on:  tools.
"""

from tools.command_line import UserError


def refuse_odd_files(path, kind):
    """Raises UserError unless `path` is an ordinary file or a folder. Reading a pipe or a device may never end.

    In a folder its files are looked at, too. kind: what the path should be, for the sentence.
    """
    for each in (path, *path.iterdir()) if path.is_dir() else (path,):
        if each.exists() and not (each.is_file() or each.is_dir()):
            raise UserError(f"{path} is no {kind}: {each.name} is a pipe or a device, no ordinary file.")


def refuse_to_overwrite(path):
    """Raises UserError where there is something already."""
    if path.exists():
        raise UserError(f"{path} exists, and is not overwritten; name another file by --out.")
