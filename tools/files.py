"""Files: where the project is, reading a text, writing that leaves nothing half done, and downloads."""

import contextlib
import hashlib
import os
import re
import secrets
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from tools.command_line import UserError

ROOT = Path(__file__).resolve().parent.parent
CONTROL = re.compile("[\0-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # what may upset a terminal, or is no character
MAX_TEXT = 2**30  # bytes; a text takes some twenty times its size in memory
DOWNLOAD_SECONDS = 600  # a server that sends a byte now and then would otherwise hold us for ever


def read_text(path):
    """Returns the text in a UTF-8 file. Raises UserError where it is missing, too large, empty or no text."""
    if path == "":
        raise UserError("the name of the text file is empty; name one, or leave the flag out.")
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no ordinary file; save the text in one.")
    try:
        size = path.stat().st_size
        if size > MAX_TEXT:
            raise UserError(f"{path} has {size:,} bytes; give a part of it, {MAX_TEXT:,} at most.")
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(size)  # a character has at least a byte
    except OSError as problem:
        raise UserError(f"cannot read the text file {path}: {problem.strerror}.")
    except UnicodeDecodeError as problem:
        raise UserError(f"{path} is not UTF-8 (byte {problem.start}); save it as UTF-8 and try again.")
    if not text:
        raise UserError(f"{path} is empty; give a file with some text in it.")
    if odd := CONTROL.search(text):
        where = f"U+{ord(odd.group()):04X} at position {odd.start() + 1}"
        raise UserError(f"{path} has a control character, {where}, which is no text; remove it and try again.")
    return text


def write_safely(path, data, new=False):
    """Writes bytes to a temporary file, then renames it. A failure leaves what was there. Raises UserError.

    The bytes reach the disk before the rename (os.fsync). A power cut leaves the old file or the new one. It may also
    leave NAME.*.tmp, which nobody reads and anybody may delete.
    new: refuse a path that exists, even if another program makes it at the same moment.
    """
    path = Path(path)
    temporary, claimed = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp"), False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:  # x: nobody else's
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if new:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            claimed = True  # the empty file at `path` is ours
        os.replace(temporary, path)
    except BaseException as problem:
        for ours in (temporary, path) if claimed else (temporary,):
            with contextlib.suppress(OSError):
                os.unlink(ours)
        if isinstance(problem, FileExistsError) and new:
            refuse_to_overwrite(path)  # it may also be a parent that is a file
        if isinstance(problem, OSError):
            raise UserError(f"could not save {path}: {problem.strerror}; what was there before is untouched.")
        raise


def refuse_to_overwrite(path):
    """Raises UserError where there is something already."""
    if path.exists():
        raise UserError(f"{path} exists, and is not overwritten; name another file by --out.")


def within(seconds, work):
    """Returns work() or raises what it raises. Raises TimeoutError once the seconds are over.

    A thread does the work and is then left to itself. (Timeouts of requests bound only the wait for the next byte.)
    """
    future = Future()

    def attempt():
        try:
            future.set_result(work())
        except Exception as problem:
            future.set_exception(problem)

    thread, end = threading.Thread(target=attempt, daemon=True), time.monotonic() + seconds
    thread.start()
    while thread.is_alive() and time.monotonic() < end:
        thread.join(0.1)  # a little at a time, since on Windows Ctrl-C is not heard meanwhile
    return future.result(0)


def download(url, sha256, path):
    """Returns `path`. Fetches `url` into it first, unless the file is there with the checksum `sha256`.

    sha256=None is for a page that may be edited. A file that is there is then taken as it is. Raises UserError.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no ordinary file: move it away.")
    if path.is_file() and (sha256 is None or hashlib.sha256(path.read_bytes()).hexdigest() == sha256):
        return path
    import pooch

    pooch.get_logger().setLevel("WARNING")
    fetch = pooch.HTTPDownloader(timeout=(5, 30))  # seconds to connect, and between two pieces

    def fetch_in_time(*arguments):
        within(DOWNLOAD_SECONDS, lambda: fetch(*arguments))

    try:
        pooch.retrieve(url, sha256, fname=path.name, path=path.parent, downloader=fetch_in_time)
    except Exception as problem:  # no network, a full disk, a broken answer, or a wrong checksum (ValueError)
        reasons = {ValueError: "its checksum is wrong", OSError: str(problem)}
        reason = reasons.get(type(problem), type(problem).__name__)
        raise UserError(f"could not download {url} ({reason}); fetch it yourself and save it as {path}.")
    return path


def find_checkpoint(name):
    """Returns the path of a checkpoint. hf://OWNER/REPO/PATH is downloaded from the Hugging Face hub first."""
    if not name:
        raise UserError("the name of a checkpoint is empty; name a file, or leave the flag out.")
    if not name.startswith("hf://"):
        return Path(name)
    from huggingface_hub import hf_hub_download

    owner, _, rest = name.removeprefix("hf://").partition("/")
    repo, _, file = rest.partition("/")
    if not (owner and repo and file):
        raise UserError(f"{name} is incomplete; write hf://OWNER/REPO/PATH, PATH being the file in the repository.")
    try:
        path = Path(hf_hub_download(f"{owner}/{repo}", file))
    except Exception as problem:  # the hub's errors, requests' and plain OSErrors
        raise UserError(f"could not download {name} ({type(problem).__name__}); check the name and the network.")
    if path.suffix == ".pt":  # the older format keeps its alphabet apart. Where it lacks, loading says so.
        with contextlib.suppress(Exception):
            hf_hub_download(f"{owner}/{repo}", (Path(file).parent / "vocab.json").as_posix())
    return path
