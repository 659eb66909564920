"""tools: how a script ends, flags, files and downloads, where it runs, checkpoints on disk, settings, a run's log."""

import argparse
import csv
import hashlib
import importlib
import io
import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from conftest import ROOT, Quiet, environment, serving

import tools
from tools import checkpoints, command_line, devices, files, pictures, training_run
from tools import settings as run_settings
from tools.command_line import UserError
from tools.files import write_safely

import torch

SIGNALS = (signal.SIGINT, signal.SIGTERM)


# ---- How a script ends
@pytest.mark.parametrize(
    "main, words",
    [(Mock(side_effect=UserError("give more.")), ["error: give more."]),
     (lambda: devices.pick_device("tpu"), ["error: this machine has no device 'tpu'; it has ", "cpu"]),
     (Mock(side_effect=OSError(28, "No space left on device")), ["error: [Errno 28] No space left on device"]),
     (lambda: torch.empty(10**15), ["error: there is not enough memory"]),
     (Mock(side_effect=MemoryError), ["error: there is not enough memory"]), (Mock(side_effect=KeyboardInterrupt), 130),
     (Mock(side_effect=torch.OutOfMemoryError("CUDA memory")), ["error: there is not enough memory"])],
)  # fmt: skip
def test_a_users_mistake_is_one_sentence(main, words):
    with pytest.raises(SystemExit) as end:
        command_line.run(main)
    assert end.value.code == words or all(word in end.value.code for word in words) and "\n" not in end.value.code


@pytest.mark.parametrize("problem", [RuntimeError("the shapes do not match"), KeyError("a mistake of ours")])
def test_our_own_mistakes_are_not_hidden(problem):
    with pytest.raises(type(problem)):
        command_line.run(Mock(side_effect=problem))


def test_standard_output_may_be_a_notebooks(monkeypatch):
    notebook = io.StringIO()  # it has no `reconfigure`
    monkeypatch.setattr(sys, "stdout", notebook)
    command_line.run(lambda: print("அ"))
    assert notebook.getvalue() == "அ\n"


def run_printing(characters, stdout):
    """A process whose `main` prints so many characters."""
    program = f"from tools.command_line import run; run(lambda: print('x' * {characters}))"
    options = dict(env=environment(), cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, "-c", program], **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_device_is_one_sentence_and_a_reader_that_has_seen_enough_is_no_mistake():
    with open("/dev/full", "w") as full:
        process, piped = (
            run_printing(1, full),
            run_printing(10**6, subprocess.PIPE),
        )  # 1: it is noticed at the end alone
    piped.stdout.close()
    assert (piped.wait(timeout=60), piped.stderr.read()) == (0, "")
    piped.stderr.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (1, 1) and err.startswith("error: ") and "space" in err


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_to_stop_and_the_second_stops(number, capfd):
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(KeyError), command_line.StopRequest() as stop:
        assert not stop.made
        signal.raise_signal(number)
        assert stop.made and "Stopping after this step" in capfd.readouterr().err
        assert all(signal.getsignal(each) == signal.SIG_DFL for each in SIGNALS)
        raise KeyError  # whatever happens inside, the handlers come back
    assert [signal.getsignal(each) for each in SIGNALS] == before


# ---- Flags and results
@pytest.mark.parametrize(
    "kind, text, value",
    [(int, "1", 1), (int, "100", 100), (float, "1", 1.0), (float, "99.5", 99.5), (int, "0", None), (int, "101", None),
     (int, "1.5", None), (int, "x", None), (int, "9" * 30, None), (int, "9" * 5000, None), (float, "1e100", None),
     (float, "nan", None), (float, "inf", None), (float, "-inf", None), (float, "0.99", None), (float, "", None)],
)  # fmt: skip
def test_numbers_have_limits(kind, text, value):
    convert = command_line.between(kind, 1, 100)
    if value is not None:
        assert convert(text) == value and type(convert(text)) is kind
    else:
        with pytest.raises(argparse.ArgumentTypeError, match="is not allowed; give a .*number from 1 to 100"):
            convert(text)


def test_a_fresh_seed_is_printed_and_gives_the_same_again(capsys):
    drawn = torch.rand(5, generator=command_line.seeded_generator(None))
    seed = int(capsys.readouterr().err.removeprefix("seed "))
    assert torch.equal(drawn, torch.rand(5, generator=command_line.seeded_generator(seed)))
    assert capsys.readouterr().err == ""
    assert not torch.equal(drawn, torch.rand(5, generator=command_line.seeded_generator(None)))


@pytest.mark.parametrize(
    "system, path, quoted",
    [("posix", "/home/my files/a.pt", "'/home/my files/a.pt'"), ("posix", "/tmp/a.pt", "/tmp/a.pt"),
     ("nt", r"C:\My Files\a.pt", r'"C:\My Files\a.pt"'), ("nt", r"C:\here&there\a.pt", r'"C:\here&there\a.pt"')],
)  # fmt: skip
def test_a_path_is_quoted_for_the_shell_that_reads_it(monkeypatch, system, path, quoted):
    monkeypatch.setattr(command_line, "os", SimpleNamespace(name=system))
    assert command_line.quote(path) == quoted


def test_the_command_names_the_best_weights_once_there_are_some(tmp_path, monkeypatch, capsys):
    out, best = tmp_path / "my run.safetensors", tmp_path / "my run_best.safetensors"
    monkeypatch.chdir(ROOT)
    command_line.print_command("python x.py --flag", out)
    best.touch()
    command_line.print_command("python x.py --flag", out)
    monkeypatch.setenv("RANK", "1")  # the second of several processes
    command_line.print_command("python x.py", out)
    expected = [f"python x.py --flag --checkpoint {command_line.quote(path)}\n" for path in (out, best)]
    assert capsys.readouterr().out == "".join(expected)


def test_claims_that_hold_and_rows_of_tables_are_printed(capsys):
    command_line.check("1 is 1", True)
    assert pictures.mean_and_error(torch.tensor([1.0, 2.0, 3.0])) == pytest.approx((2.0, 1 / 3**0.5))
    pictures.print_row("name", "{:.1f}", [(1.25, 0.5), (2.0, 0.1)])
    with pytest.raises(AssertionError, match="does not hold: 1 is 2"):
        command_line.check("1 is 2", False)
    assert capsys.readouterr().out == "  checked: 1 is 1\n| name | 1.2 +- 0.5 | 2.0 +- 0.1 |\n"


# ---- Files
WHOLE = b"To be, or not to be" * 100
GOOD = hashlib.sha256(WHOLE).hexdigest()


@pytest.fixture
def server():
    """A web server on the loopback: /good is whole, /short is cut in the middle, /slow drips, /missing is not found."""

    class Handler(Quiet):
        def do_GET(self):
            if self.path == "/missing":
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(WHOLE)))
            self.end_headers()
            if self.path != "/slow":
                return self.wfile.write(WHOLE[:700] if self.path == "/short" else WHOLE)
            for byte in WHOLE[:30]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)

    with serving(Handler) as address:
        yield address


def test_download_and_then_no_network(server, tmp_path):
    path = tmp_path / "data" / "t.txt"
    assert files.download(f"{server}/good", GOOD, path).read_bytes() == WHOLE
    assert files.download("http://127.0.0.1:9/nobody", GOOD, path) == path
    assert [p.name for p in path.parent.iterdir()] == ["t.txt"]


@pytest.mark.parametrize("before", [None, "an edited copy"])
@pytest.mark.parametrize("page, checksum", [("missing", GOOD), ("short", GOOD), ("good", "0" * 64), ("slow", GOOD)])
def test_failed_download_leaves_what_was_there(server, tmp_path, monkeypatch, page, checksum, before):
    monkeypatch.setattr(files, "DOWNLOAD_SECONDS", 0.3 if page == "slow" else 60)
    path = tmp_path / "t.txt"
    if before:
        path.write_text(before)
    with pytest.raises(UserError) as refusal:
        files.download(f"{server}/{page}", checksum, path)
    assert f"{server}/{page}" in str(refusal.value) and str(path) in str(refusal.value)
    assert [p.read_text() for p in tmp_path.iterdir()] == ([before] if before else [])


def test_a_file_is_on_the_disk_before_it_replaces_the_old_one(tmp_path, monkeypatch):
    path, seen = tmp_path / "folder" / "file", []
    write_safely(path, b"old")
    for name in ("fsync", "replace"):
        call = getattr(os, name)
        note = lambda *given, name=name, call=call: seen.append((name, path.read_bytes())) or call(*given)  # noqa: E731
        monkeypatch.setattr(os, name, note)
    write_safely(path, b"new")
    assert seen == [("fsync", b"old"), ("replace", b"old")]
    assert path.read_bytes() == b"new" and [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("place", ["fsync", "replace"])
@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("ours")])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, problem, place):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, place, Mock(side_effect=problem))
    with pytest.raises(UserError if isinstance(problem, OSError) else type(problem)) as raised:
        write_safely(path, b"new")
    assert not isinstance(problem, OSError) or "could not save" in str(raised.value)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_file_of_the_users_beside_it_is_left_alone(tmp_path):
    path, own = tmp_path / "a.csv", tmp_path / "b.csv.tmp"
    for name in ("a.csv.tmp", "target"):
        (tmp_path / name).write_bytes(b"the user's")
    own.symlink_to(tmp_path / "target")
    write_safely(path, b"new")
    write_safely(tmp_path / "b.csv", b"new")
    assert (tmp_path / "a.csv.tmp").read_bytes() == (tmp_path / "target").read_bytes() == b"the user's"
    assert own.is_symlink() and len(list(tmp_path.iterdir())) == 5
    assert path.stat().st_mode == (tmp_path / "target").stat().st_mode  # as any new file


def test_two_writers_at_once_never_show_a_reader_a_mixture(tmp_path):
    path, wholes, seen = tmp_path / "file", (b"a" * 300_000, b"b" * 500_000), set()
    write_safely(path, wholes[0])
    with ThreadPoolExecutor() as pool:
        written = [pool.submit(write_safely, path, whole) for whole in wholes * 40]
        while not all(each.done() for each in written):
            seen.add(path.read_bytes())
    assert [each.result() for each in written] == [None] * 80 and seen <= set(wholes)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_of_many_that_make_a_new_file_one_does(tmp_path):
    def claim(number):
        try:
            return write_safely(tmp_path / "file", b"%d" % number, new=True)
        except UserError as problem:
            return str(problem)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(claim, range(8)))
    [winner] = [number for number, answer in enumerate(answers) if answer is None]
    assert all("file exists, and is not overwritten" in answer for answer in answers if answer)
    assert (tmp_path / "file").read_bytes() == b"%d" % winner and len(list(tmp_path.iterdir())) == 1


# ---- Where it runs
@pytest.mark.parametrize("given, looks", [("", "5000"), ("GOMP_SPINCOUNT=7", "7"), ("OMP_WAIT_POLICY=ACTIVE", None)])
def test_threads_soon_sleep_unless_the_user_says_otherwise(monkeypatch, given, looks):
    monkeypatch.setattr(os, "environ", dict([given.split("=")] if given else []))
    importlib.reload(tools)
    assert os.environ.get("GOMP_SPINCOUNT") == looks


@pytest.mark.parametrize("gain, chosen", [(2.0, "bfloat16"), (0.5, "float32"), (1.0, "float32")])
def test_the_faster_dtype_is_chosen(monkeypatch, gain, chosen):
    seconds = {torch.float32: gain, torch.bfloat16: 1.0}
    assert devices.time_product(32, torch.float32, rows=8, repeats=2) > 0
    monkeypatch.setattr(devices, "time_product", lambda width, dtype: seconds[dtype] * width)
    dtype, why = devices.native_dtype(torch.device("cpu"), 384)
    assert dtype == chosen and f"width 384 is {gain:.1f} times as fast" in why


def test_what_must_not_be_noticed_leaves_the_generators_alone():
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    expected = torch.rand(3), torch.rand(3, device=device)
    torch.manual_seed(0)
    with devices.same_generators(device):
        torch.rand(5), torch.rand(5, device=device)
    assert all(map(torch.equal, expected, (torch.rand(3), torch.rand(3, device=device))))


# ---- Checkpoints on disk (test_hostile.py has the bad ones)
def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    path = tmp_path / "a.safetensors"
    model = {"w": torch.randn(3, 4).T, "b": torch.tensor([1.0, -2.0]).bfloat16(), "n": torch.tensor(7)}
    plain = dict(step=5, units=["அ", "\n"], heldout=None, config=dict(a=True, b=[0.1]))
    optimizers = [{}, {0: dict(step=torch.tensor(3.0), average=torch.randn(2))}]
    contents = dict(model=model, optimizers=optimizers, generators=dict(cpu=torch.get_rng_state()), **plain)
    checkpoints.save_checkpoint(contents, path)
    back = checkpoints.read_checkpoint(path)
    assert back.keys() == contents.keys() and {name: back[name] for name in plain} == plain
    assert [state.keys() for state in back["optimizers"]] == [state.keys() for state in optimizers]
    for name, value in checkpoints.named_tensors(contents).items():
        assert torch.equal(checkpoints.named_tensors(back)[name], value)
        assert checkpoints.named_tensors(back)[name].dtype == value.dtype
    path.write_bytes(bytes(path.stat().st_size))  # what was read does not change with the file
    assert torch.equal(back["model"]["w"], model["w"])


@pytest.mark.parametrize(
    "declared, good, bad",
    [((int, 1, 9), [1, 9], [0, 10, 1.0, True, None, "1", [1]]),
     ((float, 0, 1), [0, 0.5, 1], [-0.1, 1.1, math.nan, math.inf, "0", None, True]),
     ((str, 1, 3), ["a", "அ\n"], ["", "abcd", 1, None, "\x1b", "\ud800"]),
     ((list, 0, 2, (int, 0, 9)), [[], [1, 2]], [[1, 2, 3], [1, 10], ["x"], (1,), None]),
     ([True, False], [True, False], [1, 0, None, "True"]), (["steps", "minutes"], ["steps"], ["hours", None, 1])],
)  # fmt: skip
def test_fields_are_of_their_kind_and_size(declared, good, bad):
    for value in good:
        checkpoints.check_fields(dict(x=value), dict(x=declared), "a.pt")
    for value in bad:
        with pytest.raises(UserError, match="a.pt .* its x is "):
            checkpoints.check_fields(dict(x=value), dict(x=declared), "a.pt")
    for values in ({}, None, [1]):
        with pytest.raises(UserError, match="its x is 'None'"):
            checkpoints.check_fields(values, dict(x=declared), "a.pt")
    with pytest.raises(UserError, match="'y' is none of its fields"):
        checkpoints.check_fields(dict(x=good[0], y=1), dict(x=declared), "a.pt")


# ---- A training run: what it is told
PRESETS = {"tiny": dict(context=128, dim=128), "small": dict(context=128, dim=256), "base": dict(context=256, dim=384)}
TEXT = "to be or not to be"


def settled(out, *flags, script="05_train.py", text=TEXT):
    """settle for these flags, on a CPU."""
    flags = ["--out", out, "--device", "cpu", *([] if "--resume" in flags else ["--dtype", "float32"]), *flags]
    args = run_settings.training_parser("", "run.safetensors", PRESETS).parse_args([*map(str, flags)])
    return run_settings.settle(args, script, PRESETS, lambda path: text)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run.safetensors"


def save_run(out):
    """Saves a run of `tiny` as far as settle reads it. Returns its settings."""
    began, _, _ = settled(out, "--preset", "tiny", "--steps", 7, "--lr", 0.5)
    state = dict(step=3, characters=9, seconds=1.0, lr=0.1, due=False, losses=[1.0], model={"w": torch.zeros(1)})
    checkpoints.save_checkpoint(dict(settings=began.saved(), optimizers=[{}], generators={}) | state, out)
    return began


def test_flags_and_defaults_make_the_settings(out, capsys):
    flags = ["--preset", "tiny", "--steps", 7, "--dtype", "bfloat16", "--seed", 3, "--data", "verse.txt"]
    settings, text, saved = settled(out, *flags)
    assert saved is None and text == TEXT
    assert settings == run_settings.Settings(
        script="05_train.py", preset="tiny", batch=32, lr=0.025, dropout=0.0, weight_decay=0.0, seed=3,
        dtype="bfloat16", limit=7, unit="steps", data=str(Path("verse.txt").resolve()), out=out,
        device="cpu", compiles=True, sha256=hashlib.sha256(TEXT.encode()).hexdigest(),
    )  # fmt: skip
    settings, _, _ = settled(out, "--minutes", 2, "--no-compile")
    assert (settings.limit, settings.unit, settings.preset, settings.compiles) == (2, "minutes", "small", False)
    assert capsys.readouterr().err == "preset small\n"
    assert settled(out, "--preset", "tiny")[0].limit == 5
    assert settled(out, "--preset", "base")[0].batch == 16  # windows, twice as long
    assert settled(out, "--preset", "base", "--batch", 5)[0].batch == 5


def test_a_resumed_run_takes_what_was_saved_and_what_may_change(out):
    began = save_run(out)
    settings, _, saved = settled(out, "--resume")
    assert saved["step"] == 3 and settings == began
    flags = ["--minutes", 9, "--dropout", 0.3, "--weight-decay", 0.1, "--data", "x.txt"]
    settings, _, _ = settled(out, "--resume", *flags)
    changed = dict(limit=9, unit="minutes", dropout=0.3, weight_decay=0.1, data=str(Path("x.txt").resolve()))
    assert settings == replace(began, **changed)


FIXED = dict(preset=("tiny", "base"), batch=(32, 31), lr=(0.5, 0.4), seed=(0, 1), dtype=("float32", "bfloat16"))


@pytest.mark.parametrize("flag", FIXED)
def test_a_flag_that_a_run_cannot_change_may_say_what_it_is(out, flag):
    began, (own, other) = save_run(out), FIXED[flag]
    assert settled(out, "--resume", f"--{flag}", own)[0] == began and FIXED.keys() == set(run_settings.FIXED)
    with pytest.raises(UserError, match=f"has --{flag} {own}, not {other}: leave out --{flag}"):
        settled(out, "--resume", f"--{flag}", other)


@pytest.mark.parametrize("name", ["run.safetensors", "run_best.safetensors", "run.csv", "run.png"])
def test_nothing_of_an_earlier_run_is_overwritten(out, name):
    out.with_name(name).touch()
    with pytest.raises(UserError, match=name):
        settled(out, "--preset", "tiny")
    with pytest.raises(UserError) as refusal:  # as when the text is named like the log
        settled(out, "--preset", "tiny", "--data", out.with_name(name))
    assert ("--resume" in str(refusal.value)) == (name == "run.safetensors")


@pytest.mark.parametrize("name", ["", "verse\x1b.txt", "verse\udcff.txt", "verse\n.txt"])
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_text_is_named_by_what_a_checkpoint_can_keep(out, name, resume):
    if resume:
        save_run(out)
    with pytest.raises(UserError, match="--data"):
        settled(out, "--data", name, *resume)


# ---- A training run: its log
class FakeRun:
    """As much of a run as a Reporter sees: 10 steps; its held-out figure counts the measurements."""

    def __init__(self, out, step=0, due=False):
        self.settings = SimpleNamespace(out=out, dtype="float32", batch=1)
        self.model, self.device = torch.nn.Linear(1, 1), torch.device("cpu")
        self.step, self.due, self.losses, self.lr, self.heldout, self.best = step, due, [], 0.1, None, math.inf
        self.saved, self.measured = [], 0

    characters, seconds = property(lambda self: 100 * self.step), property(lambda self: float(self.step))

    def progress(self):
        return self.step / 10

    def evaluate(self, objective, windows):
        self.measured += 1
        self.heldout = self.best = self.measured / 10

    def save(self, new=False):
        self.saved.append((self.step, "new" if new else self.due))


def report(run, last, new=False):
    """Reports the steps of a run up to the last one. Returns the Reporter."""
    reporter = training_run.Reporter(run, SimpleNamespace(label="bound", token="letter"), torch.zeros(5, 4), new)
    while run.step < last:
        before = run.progress()
        run.step += 1
        reporter.report(1 / run.step, before)
    reporter.bar.close()
    return reporter


def logged(out):
    """[(step, heldout)] in the log of a run."""
    with open(out.with_suffix(".csv"), newline="") as file:
        return [(int(row["step"]), row["heldout"]) for row in csv.DictReader(file)]


def test_a_run_is_measured_saved_and_logged_in_time(out, monkeypatch, capsys):
    monkeypatch.setattr(training_run, "EVALUATIONS", 2)
    run = FakeRun(out)
    report(run, 10, new=True).finish()
    assert run.saved == [(0, "new"), (5, True), (10, True), (10, False)]  # before it is measured, that nothing be lost
    assert logged(out) == [(n, {5: "0.1000", 10: "0.2000"}.get(n, "")) for n in range(1, 11)]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    err = capsys.readouterr().err
    assert "Best held-out bound: 0.200 nats/letter" in err and "To generate from the best weights:" in err


@pytest.mark.parametrize("before", [b"the former curve", None])
def test_a_curve_that_cannot_be_written_hides_nothing(out, capsys, monkeypatch, before):
    curve, replace_file = out.with_suffix(".png"), os.replace
    curve.write_bytes(before) if before else curve.mkdir()

    def full(new, old):
        if Path(old).suffix == ".png":
            raise OSError(28, "No space left on device")
        replace_file(new, old)

    if before:
        monkeypatch.setattr(os, "replace", full)
    report(FakeRun(out), 5).finish()
    err = capsys.readouterr().err
    assert (
        "no curve (could not save" in err and "bound: 0.400" in err and "Go on by the same command with --resume" in err
    )
    assert curve.read_bytes() == before if before else curve.is_dir()


def test_in_a_long_run_the_losses_of_a_row_do_not_pile_up(out, monkeypatch):
    assert run_settings.STATE["losses"][2] > training_run.MOST_LOSSES  # or a run could not be resumed
    for name, value in dict(LOG_ROWS=1, EVALUATIONS=1, MOST_LOSSES=3).items():
        monkeypatch.setattr(training_run, name, value)
    report(FakeRun(out), 10)
    assert logged(out) == [(3, ""), (6, ""), (9, ""), (10, "0.1000")]


def test_a_log_takes_up_the_rows_up_to_its_step(tmp_path):
    path = tmp_path / "run.csv"
    log = training_run.Log(path, 0)
    for step in (1, 2, 3):
        log.add(step, 1.0, 10 * step, 0.1, 2.0, "")
    with open(path, "ab") as file:  # what a damaged disk leaves
        file.write(b"4,\xff\nx,1,1,1,1,1\n5,1,1,1,1,1,1\n%s,1,1,1,1,1\n5,1,1,1,1,nan\n" % (b"9" * 5000))
    assert [row["step"] for row in training_run.Log(path, 2).rows] == ["1", "2"]
    assert training_run.Log(path, 0).rows == []
    assert [row["step"] for row in training_run.Log(path, 9).rows] == ["1", "2", "3"]
    assert training_run.Log(path, 9).draw("bound") == tmp_path / "run.png"


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("/dev/zero"), os.mkfifo])
def test_what_is_no_log_is_not_read(tmp_path, make):
    make(tmp_path / "run.csv")
    with pytest.raises(UserError, match="no log of a run"):
        training_run.Log(tmp_path / "run.csv", 5)
