"""Files: where the project is, writing that leaves nothing half done, and downloads."""

import contextlib
import hashlib
import os
import secrets
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from tools.command_line import UserError

ROOT = Path(__file__).resolve().parent.parent
DOWNLOAD_SECONDS = 600  # a server that sends a byte now and then would otherwise hold us for ever


def write_safely(path, data, new=False):
    """Writes bytes to a temporary file of its own, then renames it. A failure leaves what was there. Raises UserError.

    The bytes are on the disk before the rename (os.fsync), so that a power cut leaves the old file or the new one.
    new: refuse a path that exists, also if another program makes it at the same moment.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:  # x: nobody else's
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if new:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        os.replace(temporary, path)
    except BaseException as problem:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(problem, FileExistsError) and new:
            raise UserError(f"{path} exists, and is not overwritten; name another file by --out.")
        if isinstance(problem, OSError):
            raise UserError(f"could not save {path}: {problem.strerror}; what was there before is untouched.")
        raise


def within(seconds, work):
    """Returns work(), or raises what it raises, or TimeoutError once the seconds are over.

    A thread does it, which is then left to itself. (Timeouts of requests bound only the wait for the next byte.)
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
    """Returns `path`. Fetches `url` into it first, unless the file is there and has the checksum `sha256`.

    With sha256=None, for a page that may be edited, a file that is there is taken as it is. Raises UserError.
    """
    if path.is_file() and (sha256 is None or hashlib.sha256(path.read_bytes()).hexdigest() == sha256):
        return path
    import pooch

    pooch.get_logger().setLevel("WARNING")
    fetch = pooch.HTTPDownloader(timeout=(5, 30))  # seconds to connect, and between two pieces

    def fetch_in_time(*arguments):
        within(DOWNLOAD_SECONDS, lambda: fetch(*arguments))

    try:
        pooch.retrieve(url, sha256, fname=path.name, path=path.parent, downloader=fetch_in_time)
    except Exception as problem:  # no network, a full disk, a broken answer; a wrong checksum, which is a ValueError
        reasons = {ValueError: "its checksum is wrong", OSError: str(problem)}
        reason = reasons.get(type(problem), type(problem).__name__)
        raise UserError(f"could not download {url} ({reason}); fetch it yourself and save it as {path}.")
    return path


def find_checkpoint(name):
    """Returns the path of a checkpoint. hf://OWNER/REPO/PATH is downloaded from the Hugging Face hub first."""
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
    if path.suffix == ".pt":  # the older format keeps its alphabet apart; where it lacks, loading says so
        with contextlib.suppress(Exception):
            hf_hub_download(f"{owner}/{repo}", (Path(file).parent / "vocab.json").as_posix())
    return path
