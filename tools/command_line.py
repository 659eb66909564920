"""How a script begins and ends: its flags, its seed, signals, and a user's mistake in one sentence."""

import argparse
import contextlib
import os
import random
import select
import shlex
import signal
import sys
import threading
from pathlib import Path

import torch

DEVICES = ("auto", "cuda", "mps", "cpu")
# What is allowed on the command line, and in a checkpoint: (type, lowest, highest)
LIMITS = dict(
    batch=(int, 1, 4096), lr=(float, 0, 100), dropout=(float, 0, 0.9), weight_decay=(float, 0, 1),
    seed=(int, 0, 2**63 - 1),
)  # fmt: skip


class UserError(ValueError):
    """A mistake of the person at the keyboard. Its text is one sentence that says what to do."""


def check(claim, holds, shipped=True):
    """Prints a claim of a lesson that holds. Raises AssertionError otherwise, for a shipped model."""
    if not holds and shipped:
        raise AssertionError(f"this claim does not hold: {claim}")
    print(f"  checked: {claim}" if holds else f"  not so for this model: {claim}")


# ---- The end of a script
def run(main):
    """Runs a script's `main`. A user's mistake ends in one sentence and exit status 1, without a traceback."""
    open_streams()
    try:
        main()
        sys.stdout.flush()
    except UserError as mistake:
        sys.exit(f"error: {printable(mistake)}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        drop_output()
        if not has_reader(sys.stderr):  # standard error broke, not the result: the work is not done
            sys.exit(1)
    except OSError as problem:  # a folder that may not be read, a name that is too long, a full disk
        drop_output()
        sys.exit(f"error: {problem}")
    except (MemoryError, RuntimeError) as problem:
        if isinstance(problem, RuntimeError) and "memory" not in str(problem):
            raise  # a mistake of ours
        smaller = [flag for flag in ("--batch", "--num", "--len") if flag in Parser.flags]
        asked = f", by a smaller {' or '.join(smaller)}" if smaller else ""
        sys.exit(f"error: there is not enough memory for this; ask for less at once{asked}.")


def printable(message):
    """A message in one line, without characters that would upset a terminal. (It may quote what a file says.)"""
    return str(message).translate(dict.fromkeys([*range(32), *range(127, 160)], " "))


def open_streams():
    """Makes standard output and error write UTF-8. Ends the script where there is no output for its result."""
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 closed, as under pythonw and some services
    if sys.stdout is None:
        sys.exit("error: standard output is closed, so the result would be lost; send it to a file.")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's has not
            stream.reconfigure(encoding="utf-8", errors="replace")  # Windows would use its code page


def has_reader(stream):
    """Whether somebody still reads a stream. (Windows does not tell.)"""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(stream, 0)  # errors alone
    return not poll.poll(0)


def drop_output():
    """Sends nowhere what standard output still holds and cannot write. Otherwise Python complains as it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class StopRequest:
    """Inside `with StopRequest() as stop`, the first Ctrl-C or SIGTERM sets stop.made. A second one stops at once.

    Outside the main thread Python allows no signal handlers. There the signals do what they always do.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __enter__(self):
        self.made, self.before = False, {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.note) for number in self.SIGNALS}
        return self

    def note(self, number, frame):
        """The signal handler. It calls os.write, since a handler may interrupt a print."""
        self.made = True
        for each in self.SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # it may be closed, or a notebook's
            os.write(sys.stderr.fileno(), b"\nStopping after this step, and saving. Once more stops at once.\n")

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


# ---- Flags
class Parser(argparse.ArgumentParser):
    """argparse that shows the options before the module's docstring. It answers a wrong value with one sentence."""

    flags = ()  # of the parser that was made last

    def __init__(self, doc):
        super().__init__(epilog=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        Parser.flags = self._option_string_actions

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {printable(message)}\n")

    def changed(self, args, names):
        """The named flags that are not at their defaults, as a person types them."""
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


def given_path(text):
    """An argparse type: a Path. An empty text is refused."""
    if not text:
        raise argparse.ArgumentTypeError("an empty text is no name; give one, or leave the flag out")
    return Path(text)


SEED = between(*LIMITS["seed"])  # the argparse type of --seed


def seeded_generator(seed):
    """A generator with this seed. None means a fresh seed, which is printed so that the text can be had again."""
    if seed is None:
        seed = random.randrange(2**31)
        print(f"seed {seed}", file=sys.stderr)
    return torch.Generator().manual_seed(seed)


# ---- Results
def print_texts(texts):
    """Prints texts with a line of dashes between two. (A text may have blank lines of its own.)"""
    print("\n\n---\n\n".join(texts))


def quote(path):
    """A path as the person's own shell reads it: by POSIX's rules, on Windows in quotation marks."""
    path = f"./{path}" if str(path).startswith("-") else path  # it would be read as a flag
    return f'"{path}"' if os.name == "nt" else shlex.quote(str(path))


def is_first_process():
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def best_path(out):
    """NAME.safetensors -> NAME_best.safetensors, where a run keeps its best weights."""
    out = Path(out)
    return out.with_name(f"{out.stem}_best{out.suffix}")


def print_command(generate, out):
    """Prints the command that writes from the best weights of the run in `out`. generate: "python SCRIPT FLAGS".

    It works from the folder in which the person stands.
    """
    if is_first_process():
        python, name, *flags = generate.split()
        script, here, best = Path(__file__).resolve().parent.parent / name, Path.cwd(), best_path(out)
        script = script.relative_to(here) if script.is_relative_to(here) else script
        found = best if best.exists() else out  # there is none before the first evaluation
        print(python, quote(script), *flags, "--checkpoint", quote(found))
