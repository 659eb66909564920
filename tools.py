"""What every script needs and no lesson is about: the command line, files, downloads, devices, checkpoints on disk.

Nothing in here is needed to understand a lesson. Its parts, in order:

    at work                UserError, run, StopRequest, check
    the command line       Parser, between, DEVICES, seeded_generator, print_texts, print_command
    tables and pictures    mean_and_error, longest_copy, print_row, save_figure, LiveView, save_gif
    files                  ROOT, write_safely, download, find_checkpoint
    where it runs          pick_device, native_dtype
    checkpoints on disk    save_checkpoint, read_checkpoint, check_fields, best_path
    a training run         Settings, training_parser, settle, with_text, Log, Reporter

Imported before torch everywhere, since it says how PyTorch's threads wait.
"""

import argparse
import contextlib
import copy
import hashlib
import io
import math
import os
import pickletools
import random
import re
import shlex
import signal
import sys
import threading
import time
import zipfile
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path

# PyTorch's threads (OpenMP) look 300,000 times for new work before they sleep. Alone that is quick; where another
# program wants the processor, too, both slow down many times. 5,000 looks keep a busy machine usable; alone they cost
# some 2% in writing and 3% in training (docs/tuning.md has both). Linux only: macOS and Windows use other thread
# pools, which do not read it. It has to stand before the first import of torch.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import torch
from tqdm import tqdm

# Numbers below 1e-38 ("denormal") are taken for 0. A head that looks firmly at one place gives the others such weights,
# and some processors are many times slower with them (docs/tuning.md: measured on an Intel Xeon, where training gains
# nearly twofold; on an AMD EPYC of the Zen 4 kind it makes no difference). It has to stand before anything is computed.
torch.set_flush_denormal(True)

ROOT = Path(__file__).resolve().parent


# ---------------------------------------------------------------------------------------------------------
# At work


class UserError(ValueError):
    """A mistake of the person at the keyboard; its text is one sentence that says what to do."""


def check(claim, holds):
    """Prints a claim that a lesson makes, once it has been found true; raises AssertionError otherwise."""
    if not holds:
        raise AssertionError(f"this claim does not hold: {claim}")
    print(f"  checked: {claim}")


def run(main):
    """Runs a script's `main`: a user's mistake ends in one sentence and exit status 1, not in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's has not
            stream.reconfigure(encoding="utf-8", errors="replace")  # Windows would use its code page
    try:
        main()
        sys.stdout.flush()
    except UserError as mistake:
        sys.exit(f"error: {mistake}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        drop_output()
    except OSError as problem:  # a folder that may not be read, a name that is too long, a full disk
        drop_output()
        sys.exit(f"error: {problem}")
    except (MemoryError, RuntimeError) as problem:
        if isinstance(problem, RuntimeError) and "memory" not in str(problem):
            raise  # a mistake of ours
        sys.exit("error: there is not enough memory for this; ask for less at once: a smaller --batch, --num or --len.")


def drop_output():
    """Sends what standard output still holds nowhere, where it cannot be written: or Python complains as it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a request to stop when it suits; a second one stops at once."""

    def __init__(self):
        self.made = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.note)

    def note(self, number, frame):
        """The signal handler. os.write, since a handler may interrupt a print."""
        self.made = True
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        os.write(2, b"\nStopping after this step, and saving. Once more stops at once.\n")


# ---------------------------------------------------------------------------------------------------------
# The command line

DEVICES = ("auto", "cuda", "mps", "cpu")


class Parser(argparse.ArgumentParser):
    """argparse that shows the module's docstring as help, and answers a wrong value with one sentence."""

    def __init__(self, doc):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")

    def changed(self, args, names):
        """Those of the named flags, as they are typed, that are not at their defaults."""
        return ["--" + name.replace("_", "-") for name in names if getattr(args, name) != self.get_default(name)]


def between(kind, low, high):
    """Returns an argparse type: `kind` (int or float) within [low, high], refused with a sentence."""

    def convert(text):
        try:
            value = kind(text)
            allowed = low <= value <= high
        except (ValueError, OverflowError):
            allowed = False
        if not allowed:
            noun = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give {noun} from {low:,} to {high:,}")
        return value

    return convert


# What is allowed on the command line, and in a checkpoint
LIMITS = dict(
    batch=(int, 1, 4096), lr=(float, 0, 100), dropout=(float, 0, 0.9), weight_decay=(float, 0, 1),
    seed=(int, 0, 2**63 - 1),
)  # fmt: skip
SEED = between(*LIMITS["seed"])  # the argparse type of --seed


def seeded_generator(seed):
    """A generator with this seed; for None with a fresh one, which is printed so that the text can be had again."""
    if seed is None:
        seed = random.randrange(2**31)
        print(f"seed {seed}", file=sys.stderr)
    return torch.Generator().manual_seed(seed)


def print_texts(texts):
    """Prints texts with a line of dashes between two, since a text may have blank lines of its own."""
    print("\n\n---\n\n".join(texts))


def quote(path):
    """A path as the person's own shell reads it: POSIX's rules; on Windows, where no path has a quote in it, quotes."""
    return f'"{path}"' if os.name == "nt" else shlex.quote(str(path))


def is_first_process():
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def print_command(generate, out):
    """Prints the command, `generate` and more, that writes from the best weights of the run in `out`; of several
    processes only the first one does."""
    if is_first_process():
        best = best_path(out)  # there is none before the first evaluation
        print(f"{generate} --checkpoint {quote(best if best.exists() else out)}")


# ---------------------------------------------------------------------------------------------------------
# Tables and pictures


def mean_and_error(values):
    """(mean, standard error of the mean) of values [N]."""
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def longest_copy(pieces, text):
    """The length of the longest passage in any of the pieces that stands in the text, letter for letter."""
    longest = 0
    for piece in pieces:
        start = 0
        while start + longest < len(piece):
            if piece[start : start + longest + 1] in text:
                longest += 1
            else:
                start += 1
    return longest


def print_row(name, form, cells):
    """Prints a row of a table; cells: (mean, standard error) each, printed by the format `form`."""
    print(f"| {name} | {' | '.join(' +- '.join(form.format(value) for value in cell) for cell in cells)} |")


def new_figure(rows=1, columns=1, **options):
    """(figure, axes) of matplotlib, which draws into files alone, without a window. options: those of plt.subplots."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, **options)


def save_figure(figure, path):
    """Saves a figure, under figures/ unless the path is absolute, and prints where."""
    buffer, path = io.BytesIO(), ROOT / "figures" / path
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    write_safely(path, buffer.getbuffer())
    print(path)


HIDDEN = "░"  # how a mask is shown


def show_text(tokenizer, tokens, mask_id):
    """[L] tokens -> text, masks shown as HIDDEN."""
    return "".join(HIDDEN if i == mask_id else tokenizer.units[i] for i in tokens.tolist())


class LiveView:
    """Draws a text in the terminal again and again, in the same place, as it is unmasked."""

    def __init__(self, tokenizer, mask_id):
        self.tokenizer, self.mask_id, self.lines = tokenizer, mask_id, 0

    def __call__(self, canvas):
        width, height = (n or 80 for n in os.get_terminal_size(sys.stderr.fileno()))  # some say 0
        text = show_text(self.tokenizer, canvas[0], self.mask_id)
        width = max(2, width) - 1
        lines = [line[i : i + width] for line in text.split("\n") for i in range(0, max(1, len(line)), width)]
        end = max((i + 1 for i, line in enumerate(lines) if line.strip(HIDDEN)), default=0)  # after the last letter
        lines = lines[: max(end, height - 1)][1 - height :]  # what fits, up to there
        back, self.lines = self.to_beginning(), len(lines)
        sys.stderr.write(back + "\n".join(lines) + "\n")  # at once, so that Ctrl-C finds either text

    def to_beginning(self):
        """The codes that move the cursor to where the text began, and clear what is below."""
        return f"\x1b[{self.lines}A\x1b[J" if self.lines else ""

    def erase(self):
        """Clears the text."""
        sys.stderr.write(self.to_beginning())
        sys.stderr.flush()


def save_gif(path, frames, tokenizer, mask_id):
    """Saves canvases [1, L], one after the other, as an animation. Letters stand where they stand in the last one."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf", 16)
    places, row, column = [], 0, 0
    for letter in (tokenizer.units[i] for i in frames[-1][0].tolist()):
        places.append((12 + 10 * column, 10 + 22 * row))
        row, column = (row + 1, 0) if letter == "\n" else (row, column + 1)
    size = (max(x for x, _ in places) + 24, places[-1][1] + 34)
    images, before = [], frames[0]
    for frame in frames:
        image = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(image)
        for place, i, was in zip(places, frame[0].tolist(), before[0].tolist()):
            if i == mask_id:
                draw.rectangle((place[0] + 1, place[1] + 4, place[0] + 8, place[1] + 17), fill="#d0d7e5")
            elif tokenizer.units[i] != "\n":
                draw.text(place, tokenizer.units[i], fill="#d2322d" if was == mask_id else "black", font=font)
        images.append(image.quantize(256))  # fewer colours would lose the few red pixels
        before = frame
    durations = [80] * (len(images) - 1) + [4000]  # milliseconds; the last one stays
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    write_safely(path, file.getvalue())
    print(path, file=sys.stderr)


# ---------------------------------------------------------------------------------------------------------
# Files


def write_safely(path, data):
    """Writes bytes to a temporary file, then renames it, so that a failure leaves what was there. Raises UserError."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as problem:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"could not save {path}: {problem.strerror}; what was there before is untouched.")


DOWNLOAD_SECONDS = 600  # a server that sends a byte now and then would otherwise hold us for ever
MAX_DOWNLOAD = 2**26  # bytes; the largest file of ours has 2**21


def within(seconds, work):
    """Returns work(), or raises what it raises, or TimeoutError once the seconds are over.

    A thread does it, which is then left to itself, since requests bounds only the wait for the next byte.
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


def receive(url):
    """The bytes at `url`. Raises OSError for an answer that is cut, too large, or does not say how long it is."""
    import requests

    content = bytearray()
    with requests.get(url, stream=True, timeout=(5, 30)) as response:
        response.raise_for_status()
        for piece in response.iter_content(2**16):
            content.extend(piece)
            if len(content) > MAX_DOWNLOAD:
                raise OSError("it is larger than any file of this project")
        announced, came = response.headers.get("Content-Length"), str(response.raw.tell())
        if announced != came and not response.raw.chunked:  # an answer in chunks has an end of its own
            raise OSError("it was cut, or does not say how long it is")
    return content


def fetch(url, path, pooch):
    """pooch's downloader: writes the bytes of `url` into the file `path` once all have come. Raises OSError."""
    Path(path).write_bytes(within(DOWNLOAD_SECONDS, lambda: receive(url)))


def download(url, sha256, path):
    """Returns `path`. Fetches `url` into it first, unless the file is there and has the checksum `sha256`; with
    sha256=None, for a page that may be edited, unless it is there.

    The bytes go to a temporary file that is renamed once its checksum is right. Raises UserError.
    """
    if path.is_file() and (sha256 is None or hashlib.sha256(path.read_bytes()).hexdigest() == sha256):
        return path
    import pooch

    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(url, sha256, fname=path.name, path=path.parent, downloader=fetch)
    except Exception as problem:  # no network, a full disk, a broken answer; a wrong checksum, which is a ValueError
        reasons = {ValueError: "its checksum is wrong", OSError: str(problem)}
        reason = reasons.get(type(problem), type(problem).__name__)
        raise UserError(f"could not download {url} ({reason}); fetch it yourself and save it as {path}.")
    return path


def find_checkpoint(name):
    """Returns the path of a checkpoint; hf://OWNER/REPO/PATH is downloaded from the Hugging Face hub first."""
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
    with contextlib.suppress(Exception):  # the older format keeps its alphabet apart; where it lacks, loading says so
        hf_hub_download(f"{owner}/{repo}", (Path(file).parent / "vocab.json").as_posix())
    return path


# ---------------------------------------------------------------------------------------------------------
# Where it runs


def pick_device(name):
    """'auto' -> cuda, then mps, then cpu. Raises UserError for a device that this machine lacks."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available.get(name):
        here = ", ".join(device for device, there in available.items() if there)
        raise UserError(f"this machine has no device {name!r}; it has {here}.")
    return torch.device(name)


def native_dtype(device, width):
    """(dtype, why): bfloat16 (16 bits: float32's range, fewer digits) where training is faster so, else float32.

    A GPU says whether it has it. Of CPUs some are nearly twice as fast so, others half as fast, and the names of their
    instructions do not tell which (docs/tuning.md): so a matrix product of the model's own width is timed in both.
    """
    if device.type == "cuda":
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
        return (torch.bfloat16, "this GPU has it") if has_it else (torch.float32, "this GPU has no bfloat16")
    if device.type != "cpu":
        return torch.float32, f"not tried on {device.type}"
    seconds = {dtype: time_product(width, dtype) for dtype in (torch.float32, torch.bfloat16)}
    gain = seconds[torch.float32] / seconds[torch.bfloat16]
    why = f"here a matrix product of width {width} is {gain:.1f} times as fast in bfloat16 as in float32"
    return torch.bfloat16 if gain > 1.1 else torch.float32, why


def time_product(width, dtype, rows=2048, repeats=4):
    """Seconds of the fastest of a few products [rows, width] x [width, 4 width], as a feed-forward layer has them."""
    x, matrix, times = torch.ones(rows, width, dtype=dtype), torch.ones(4 * width, width, dtype=dtype), []
    for _ in range(repeats):
        began = time.perf_counter()
        torch.nn.functional.linear(x, matrix)
        times.append(time.perf_counter() - began)
    return min(times)


# ---------------------------------------------------------------------------------------------------------
# Checkpoints on disk. A file may come from anywhere, so nothing in it is used before it was found to be of the kind and
# the size that it should be: the archive, before it is unpacked; its description, of which plain values and tensors can
# come and nothing else; each field, by `check_fields`; the number of weights, before a model is made for them.

MAX_FILE = 2**29  # bytes; the training state of `base` has 2**27
MAX_DESCRIPTION = 2**20  # bytes; that of `base` has 2**15
MAX_ENTRIES = 10**4  # of the archive, which has one for each tensor
MAX_WEIGHT = 1e5  # a trained model's are below 10; far above this, float32 overflows between the layers
CONTROL = re.compile("[\0-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # what may upset a terminal, or is no character


def best_path(out):
    """NAME.pt -> NAME_best.pt"""
    return out.with_name(out.stem + "_best.pt")


def save_checkpoint(contents, path):
    """Writes a checkpoint; a crash or a full disk leaves the one that was there. Raises UserError."""
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    write_safely(path, buffer.getbuffer())


def read_checkpoint(path):
    """Returns the dict in a checkpoint file, as torch.load(path, "cpu", weights_only=True) does. Raises UserError."""
    if not Path(path).is_file():
        here = ", ".join(sorted(each.name for each in (ROOT / "checkpoints").glob("*.pt"))) or "none"
        raise UserError(f"there is no file {path}; checkpoints/ has {here}; lessons 5, 7 and 8 train others.")
    try:
        with open(path, "rb") as file:
            contents = rebuild(open_archive(file))
    except Exception as problem:  # zipfile raises a dozen kinds, for a file that is cut short, say
        reason = problem if type(problem) is ValueError else type(problem).__name__
        raise UserError(f"{path} is damaged, or no checkpoint, or carries code, which is not run ({reason}).")
    if isinstance(contents, dict) and isinstance(contents.get("model"), dict):
        return contents
    raise UserError(f"{path} is not a checkpoint of this project.")


def open_archive(file):
    """The zip archive in an open file. Raises an exception for one that torch.save does not write, before anything is
    unpacked: a few bytes can stand for terabytes."""
    size = os.fstat(file.fileno()).st_size
    if size > MAX_FILE:
        raise ValueError(f"larger than {MAX_FILE:,} bytes")
    if sum(piece.count(b"PK\1\2") for piece in iter(lambda: file.read(2**20), b"")) > MAX_ENTRIES:
        raise ValueError("too many entries")
    archive = zipfile.ZipFile(file)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise ValueError("compressed")
    if sum(entry.file_size for entry in archive.infolist()) > size:
        raise ValueError("larger inside than outside")
    return archive


class TensorMaker:
    """Makes the tensors that a checkpoint describes, of the numbers in its archive, whose folder has this name."""

    DTYPES = {
        "torch FloatStorage": torch.float32, "torch BFloat16Storage": torch.bfloat16,
        "torch HalfStorage": torch.float16, "torch ByteStorage": torch.uint8,
    }  # fmt: skip

    def __init__(self, archive, folder):
        self.archive, self.folder, self.known = archive, folder, {}
        self.left = 2 * sum(entry.file_size for entry in archive.infolist())  # two names may share their numbers

    def numbers(self, _, dtype, key, device, count):
        """The [count] numbers in the entry `key`; wherever they were, they come to the CPU."""
        name = self.folder + "data/" + key
        if name not in self.known:
            self.known[name] = torch.frombuffer(bytearray(self.archive.read(name)), dtype=dtype)
        if len(self.known[name]) != count:
            raise ValueError("numbers are missing")
        return self.known[name]

    def make(self, numbers, offset, size, strides, requires_grad, hooks):
        """The tensor of this size that begins at an offset. With strides of 0, it might be larger than its data."""
        tensor = numbers.as_strided(size, strides, offset)
        self.left -= tensor.nbytes
        if not tensor.is_contiguous() or self.left < 0:
            raise ValueError("a tensor is larger than its data")
        return tensor


def rebuild(archive):
    """What torch.save put into the archive: its description, a "pickle", says how to make it on a stack.

    Python's own pickle would call whatever the file names. torch.load(weights_only=True) refuses that; but some files
    of tests/hostile.py crash it, or keep it busy without end, or make it ask for gigabytes. Here are the steps that
    torch.save writes, and no others; what may be called are two functions: one makes an empty dict, one a tensor.
    """
    descriptions = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
    if len(descriptions) != 1 or descriptions[0].file_size > MAX_DESCRIPTION:
        raise ValueError("too many objects, or none")
    maker = TensorMaker(archive, descriptions[0].filename.removesuffix("data.pkl"))
    may_be_named = {"collections OrderedDict": lambda: {}, "torch._utils _rebuild_tensor_v2": maker.make} | maker.DTYPES
    new = dict(NONE=None, NEWTRUE=True, NEWFALSE=False, EMPTY_TUPLE=(), EMPTY_LIST=[], EMPTY_DICT={})
    takes = dict(TUPLE1=1, TUPLE2=2, TUPLE3=3, APPEND=1, SETITEM=2)  # so many from the top of the stack
    stack, marks, memo = [], [], {}
    for opcode, argument, _ in pickletools.genops(archive.read(descriptions[0])):
        if opcode.name in (*takes, "TUPLE", "APPENDS", "SETITEMS"):
            start = len(stack) - takes[opcode.name] if opcode.name in takes else marks.pop()
            items = stack[start:]
            del stack[start:]
        match opcode.name:
            case "PROTO" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append(copy.copy(new[opcode.name]))
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "BINFLOAT":
                stack.append(argument)
            case "LONG1" if -(2**63) <= argument < 2**63:
                stack.append(argument)
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(items))
            case "APPEND" | "APPENDS":
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS" if all(type(key) in (str, int) for key in items[::2]):
                stack[-1].update(zip(items[::2], items[1::2]))
            case "MARK":
                marks.append(len(stack))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL" if argument in may_be_named:
                stack.append(may_be_named[argument])
            case "BINPERSID":
                stack.append(maker.numbers(*stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(stack.pop()(*arguments))
            case "BUILD":  # with the version numbers of PyTorch's layers, which nothing here needs
                stack.pop()
            case _:
                raise ValueError(f"it says {opcode.name} {str(argument)[:40]!r}")
    return stack.pop()


def unfit(path, why):
    """The UserError for a checkpoint of which something does not fit."""
    return UserError(f"{path} is not a whole checkpoint of this project: {why}.")


def fits(value, declared):
    """Whether a value is as declared: (type, low, high), for texts and lists the limits of their length, for lists
    followed by what each entry is; or [all that it may be]. nan is within no limits; texts have no control characters.
    """
    if isinstance(declared, list):
        return any(type(value) is type(choice) and value == choice for choice in declared)
    kind, low, high, *of_each = declared
    if type(value) not in ((int, float) if kind is float else (kind,)):
        return False
    number = len(value) if kind in (str, list) else value
    if not low <= number <= high or (kind is str and CONTROL.search(value)):
        return False
    return not of_each or all(fits(each, *of_each) for each in value)


def check_fields(values, fields, path):
    """Raises UserError unless `values` is a dict of these fields, {name: declared}, each of which fits."""
    for name, declared in fields.items():
        value = values.get(name) if isinstance(values, dict) else None
        if not fits(value, declared):
            shown = repr(str(value)[:40]) if isinstance(value, (str, int, float, type(None))) else type(value).__name__
            raise unfit(path, f"its {name} is {shown}")
    if unknown := values.keys() - fields.keys():
        raise unfit(path, f"{str(unknown.pop())[:40]!r} is none of its fields")


def progress_of(contents, path):
    """{name: value} of a checkpoint's PROGRESS, as far as it is recorded. Raises UserError."""
    recorded = {name: contents[name] for name in PROGRESS if name in contents}
    check_fields(recorded, {name: PROGRESS[name] for name in recorded}, path)
    return recorded


def checked_units(units, number, path):
    """The alphabet of a checkpoint: `number` different texts, few of them longer than a character, since the tokenizer
    tries these one by one. Raises UserError."""
    whole = fits(units, (list, number, number, (str, 1, 16)))
    if not whole or len(set(units)) < number or sum(len(unit) > 1 for unit in units) > 1000:
        raise unfit(path, "its alphabet does not fit the model")
    return units


def shapes_of(tensors):
    """{name: the shape} of a dict of tensors; None stands for what is no tensor of numbers with a fraction."""
    fractions = {name: isinstance(value, torch.Tensor) and value.is_floating_point() for name, value in tensors.items()}
    return {name: value.shape if fractions[name] else None for name, value in tensors.items()}


def check_count(weights, count, path):
    """Raises UserError unless a dict of weights has `count` numbers in all; before a model of this size is made."""
    if sum(math.prod(shape) for shape in shapes_of(weights).values() if shape is not None) != count:
        raise unfit(path, "its weights do not fit its shape")


def check_weights(weights, model, path):
    """Raises UserError unless a dict of weights has what a model needs, and numbers of a sensible size only."""
    if shapes_of(weights) != shapes_of(model.state_dict()):
        raise unfit(path, "its weights do not fit its shape")
    if not all(value.abs().max() <= MAX_WEIGHT for value in weights.values()):  # nan is not, either
        raise UserError(f"{path} is damaged: some of its weights are no numbers, or far too large.")


def check_optimizers(states, optimizers, path):
    """Raises UserError unless states are what these optimizers remember of their parameters, or nothing yet."""
    average = (-MAX_WEIGHT, MAX_WEIGHT)
    limits = {
        "Muon": dict(average=average),
        "AdamW": dict(step=(0, 1e10), exp_avg=average, exp_avg_sq=(0, MAX_WEIGHT)),
    }
    whole = len(states) == len(optimizers) and all(isinstance(state, dict) for state in states)
    for state, optimizer in zip(states, optimizers) if whole else []:
        expected, parameters = limits[type(optimizer).__name__], optimizer.param_groups[0]["params"]
        whole &= state.keys() == (set(range(len(parameters))) if state else set())
        for number, kept in state.items() if whole else []:
            shapes = {name: torch.Size() if name == "step" else parameters[number].shape for name in expected}
            whole &= isinstance(kept, dict) and shapes_of(kept) == shapes
            whole = whole and all(low <= kept[n].min() and kept[n].max() <= high for n, (low, high) in expected.items())
    if not whole:
        raise UserError(f"{path} is not a whole training checkpoint: its optimizers' state does not fit the model.")


def generator_states(device):
    """{name: the state of each of PyTorch's own random generators}."""
    states = dict(cpu=torch.get_rng_state())
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_generators(states, device):
    """Takes up what generator_states gave; a run that has moved to another device begins there anew."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


def restore_generators(states, generator, device, path):
    """Takes up the states in a training checkpoint. Raises UserError for what is none."""
    try:
        generator.set_state(states["batches"])
        set_generators(states, device)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as problem:
        reason = type(problem).__name__
        raise UserError(f"{path} is not a whole training checkpoint: its generators are damaged ({reason}).")


@contextlib.contextmanager
def same_generators(device):
    """What happens inside leaves PyTorch's generators as they were."""
    states = generator_states(device)
    yield
    set_generators(states, device)


# ---------------------------------------------------------------------------------------------------------
# A training run: what it is told, and its log

DEFAULTS = dict(preset="auto", batch=None, lr=0.025, dropout=0.0, weight_decay=0.0, seed=0, dtype="auto")
LETTERS_A_STEP = 4096  # in windows of the model's context, unless --batch says how many windows
PROGRESS = dict(  # how far it has come
    step=(int, 0, 10**10), characters=(int, 0, 10**15), seconds=(float, 0, 10**10), heldout=(float, 0, math.inf),
)  # fmt: skip
STATE = PROGRESS | dict(lr=LIMITS["lr"], due=[True, False], losses=(list, 0, 10**5, (float, 0, 10**9)))


@dataclass(frozen=True)
class Settings:
    """What a training run is told, by the command line, and by the checkpoint that it goes on from."""

    script: str  # the lesson that began it, the only one that can go on with it
    preset: str
    batch: int  # windows in a step
    lr: float  # Muon's
    dropout: float
    weight_decay: float  # Muon's
    seed: int
    dtype: str  # "float32", "bfloat16", or "auto" until it is measured
    limit: float  # so many
    unit: str  # "steps" or "minutes"
    data: str  # the text's path; "" for the script's own
    sha256: str  # of the text; "" until it is read
    out: Path  # this and the next two are not saved
    device: str
    compiles: bool

    def saved(self):
        """As a dict for the checkpoint."""
        return {name: value for name, value in asdict(self).items() if name not in ("out", "device", "compiles")}


def training_parser(doc, out, presets, data="TinyShakespeare, downloaded once", **own):
    """The flags that all training scripts share; own: defaults instead of DEFAULTS."""
    default, out = DEFAULTS | own, ROOT / "checkpoints" / out
    parser = Parser(doc)
    add = parser.add_argument
    add("--data", metavar="FILE", help=f"a UTF-8 text file (default: {data})")
    add("--preset", choices=["auto", *presets], help=f"default: {default['preset']}; auto: base on CUDA, else small")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--steps", type=between(int, 1, 10**9), help="stop after so many steps in all")
    limit.add_argument("--minutes", type=between(float, 0.01, 10**6), help="stop after so long in all (default: 5)")
    windows = f"windows of text in a step (default: those that hold {LETTERS_A_STEP:,} letters)"
    add("--batch", type=between(*LIMITS["batch"]), help=windows)
    add("--lr", type=between(*LIMITS["lr"]), help=f"Muon's learning rate; AdamW's follows (default: {default['lr']})")
    add(
        "--dropout",
        type=between(*LIMITS["dropout"]),
        help=f"share of each residual update to drop (default: {default['dropout']})",
    )
    decay = f"times the learning rate, the share that matrices lose in a step (default: {default['weight_decay']})"
    add("--weight-decay", type=between(*LIMITS["weight_decay"]), help=decay)
    add("--seed", type=SEED, help=f"default: {default['seed']}")
    add("--dtype", choices=("auto", "float32", "bfloat16"), help="default: the one in which this machine is faster")
    add("--device", choices=DEVICES, default="auto", help="default: auto")
    add("--no-compile", action="store_true", help="on CUDA: do without torch.compile, which needs a C compiler")
    add("--out", type=Path, default=out, metavar="FILE", help=f"the run's checkpoint (default: checkpoints/{out.name})")
    add(
        "--resume",
        action="store_true",
        help="go on with --out; --steps or --minutes, --dropout, --weight-decay, --device and --no-compile may change",
    )
    add("--evaluate", metavar="FILE", help="train nothing: measure this checkpoint on the held-out part of --data")
    return parser


def settle(args, script, presets, **own):
    """(Settings, the run's checkpoint or None): with --resume what that says, else the flags and the defaults.

    Raises UserError for a flag that a run cannot change, for another script's run, and where files would be lost.
    """
    if args.out.suffix != ".pt":
        raise UserError(f"--out {args.out} is no name for a checkpoint; it must end in .pt.")
    given = {name: value for name in DEFAULTS if (value := getattr(args, name)) is not None}
    if args.minutes or args.steps:
        given |= dict(limit=args.steps or args.minutes, unit="steps" if args.steps else "minutes")
    given |= dict(data=str(Path(args.data).resolve())) if args.data else {}
    here = dict(out=args.out, device=args.device, compiles=not args.no_compile)
    if args.resume:
        saved = read_checkpoint(args.out)
        check_settings(saved, script, presets, args.out)
        if fixed := given.keys() & {"preset", "batch", "lr", "seed", "dtype"}:
            name = sorted(fixed)[0]
            raise UserError(f"the run in {args.out} has --{name} {saved['settings'][name]}: leave out --{name}.")
        return Settings(**{**saved["settings"], **given, **here}), saved
    for path in (args.out, best_path(args.out), args.out.with_suffix(".csv"), args.out.with_suffix(".png")):
        if path.exists():
            raise UserError(f"{path} exists: go on with that run by --resume, or name another file by --out.")
    settings = DEFAULTS | own | dict(script=script, limit=5.0, unit="minutes", data="", sha256="") | given | here
    if settings["preset"] == "auto":
        settings["preset"] = "base" if pick_device(args.device).type == "cuda" else "small"
        print(f"preset {settings['preset']}", file=sys.stderr)
    settings["batch"] = settings["batch"] or LETTERS_A_STEP // presets[settings["preset"]]["context"]
    return Settings(**settings), None


def check_settings(saved, script, presets, path):
    """Raises UserError unless the dict of a checkpoint holds the state of a run of this script."""
    settings = saved.get("settings")
    if not isinstance(settings, dict) or not isinstance(saved.get("optimizers"), list):
        raise UserError(f"{path} does not hold the state of a training run, so it cannot be trained further.")
    if settings.get("script") != script:
        began = f"was begun by {str(settings.get('script', 'an earlier version'))[:40]!r}"
        raise UserError(f"the run in {path} is of another kind: it {began}, and only that can go on with it.")
    fields = LIMITS | dict(
        script=[script], preset=list(presets), dtype=["float32", "bfloat16"], limit=(float, 0.01, 10**9),
        unit=["steps", "minutes"], data=(str, 0, 4096), sha256=(str, 64, 64),
    )  # fmt: skip
    check_fields(settings, fields, path)
    check_fields({name: saved.get(name) for name in STATE}, STATE, path)


def with_text(settings, text):
    """The settings with the text's checksum. Raises UserError where a run would go on with another text."""
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    if settings.sha256 not in ("", sha256):
        raise UserError(
            f"the run in {settings.out} learns another text than {settings.data or 'this'}; give it by --data."
        )
    return replace(settings, sha256=sha256)


class Log:
    """NAME.csv, a row now and then, and NAME.png, drawn from it. A resumed run keeps the rows up to its step."""

    COLUMNS = ("step", "seconds", "characters", "lr", "loss", "heldout")
    ROW = re.compile(r"\d{1,12},N,\d{1,16},N,N,(?:N)?".replace("N", r"\d{1,16}(?:\.\d{1,16})?"), re.ASCII)

    def __init__(self, path, step):
        self.path, self.rows = path, []
        if step and path.exists():
            if not path.is_file() or path.stat().st_size > 2**24:
                raise UserError(f"{path} is no log of a run; move it away.")
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            rows = [dict(zip(self.COLUMNS, line.split(","))) for line in lines if self.ROW.fullmatch(line)]
            self.rows = [row for row in rows if int(row["step"]) <= step]

    def add(self, *values):
        """Adds a row, one value a column, and writes the file."""
        self.rows.append(dict(zip(self.COLUMNS, values)))
        lines = [",".join(self.COLUMNS), *(",".join(map(str, row.values())) for row in self.rows)]
        write_safely(self.path, ("\n".join(lines) + "\n").encode())

    def draw(self, label):
        """Saves the curve beside the log and returns its path."""
        figure, axes = new_figure(figsize=(7, 4))
        for column, name, style in (("loss", "training loss", "-"), ("heldout", f"held-out {label}", "o-")):
            rows = [row for row in self.rows if row[column]]
            x, y = [int(row["characters"]) for row in rows], [float(row[column]) for row in rows]
            axes.plot(x, y, style, label=name)
        axes.set(xlabel="characters seen in training", ylabel="nats per character")
        axes.legend()
        figure.savefig(self.path.with_suffix(".png"), dpi=130, bbox_inches="tight")
        return self.path.with_suffix(".png")


EVALUATIONS = 8  # how often a run measures the held-out figure
HELDOUT_WINDOWS = 1024  # at most this many windows, evenly spread; TinyShakespeare has fewer
LOG_ROWS = 200  # how many rows of the log a run writes
MOST_LOSSES = 10**4  # steps between two rows, at most: a checkpoint holds their losses, and must not grow long
SAVE_EVERY = 60  # seconds between two saves


class Reporter:
    """What the first process does after a step: the bar, the log, the evaluations and the saves."""

    def __init__(self, run, objective, windows):
        self.run, self.objective = run, objective
        self.windows = windows[:: math.ceil(len(windows) / HELDOUT_WINDOWS)]
        self.log = Log(run.settings.out.with_suffix(".csv"), run.step - run.due)  # due: that row comes below
        self.saved_at, self.began_at = time.monotonic(), (run.characters, run.seconds)
        count = f"{sum(p.numel() for p in run.model.parameters()):,} parameters"
        print(f"{count}, {run.device}, {run.settings.dtype}, batch {run.settings.batch}", file=sys.stderr)
        pause = 0.5 if sys.stderr.isatty() else 30  # seconds between two updates; a file wants fewer
        layout = "{percentage:3.0f}%|{bar:20}| {desc}"
        self.bar = tqdm(total=1.0, initial=run.progress(), bar_format=layout, mininterval=pause, file=sys.stderr)
        if run.due:  # it was killed while it measured
            self.measure()

    def report(self, loss, before):
        """`before`: the progress before this step; what is done at intervals is done when it passes a mark."""
        run, after = self.run, self.run.progress()
        if not math.isfinite(loss):
            self.bar.close()  # or it would draw itself once more, after the error
            raise UserError("the loss is no longer a number; begin again with a smaller --lr.")
        run.losses.append(loss)
        speed = (run.characters - self.began_at[0]) / (run.seconds - self.began_at[1])
        left = tqdm.format_interval(run.seconds * (1 - after) / after)
        text = f"step {run.step:,}  loss {loss:.3f}  {speed:,.0f} characters/s  {left} left"
        self.bar.set_description_str(text, refresh=False)
        self.bar.update(after - self.bar.n)
        run.due = int(after * EVALUATIONS) > int(before * EVALUATIONS)
        if run.due or time.monotonic() > self.saved_at + SAVE_EVERY:
            run.save()
            self.saved_at = time.monotonic()
        if run.due:
            self.bar.set_description_str(f"{text}; measuring on held-out text")
            self.measure()
        elif int(after * LOG_ROWS) > int(before * LOG_ROWS) or len(run.losses) >= MOST_LOSSES:
            self.add_row("")

    def measure(self):
        """Measures on held-out text, and logs it."""
        self.run.evaluate(self.objective, self.windows)
        self.add_row(f"{self.run.heldout:.4f}")
        self.run.due = False

    def add_row(self, heldout):
        """Adds a row to the log."""
        run = self.run
        mean = sum(run.losses) / len(run.losses)
        self.log.add(run.step, f"{run.seconds:.1f}", run.characters, f"{run.lr:.5f}", f"{mean:.4f}", heldout)
        run.losses = []

    def finish(self):
        """Saves, draws, and says what came out of it."""
        run = self.run
        run.save()
        self.bar.close()
        best = f"{run.best:.3f} nats/character" if run.best < math.inf else "not measured yet"
        resume = f"Go on with --resume --out {quote(run.settings.out)}"
        print(
            f"{run.step:,} steps, {run.characters:,} characters, {run.seconds:.0f} s of training",
            f"Best held-out {self.objective.label}: {best}",
            f"Checkpoint {run.settings.out}, curve {self.log.draw(self.objective.label)}",
            resume if run.progress() < 1 else "To generate from the best weights:",
            sep="\n", file=sys.stderr,
        )  # fmt: skip
