"""tools.py: how a script ends, its flags, files and downloads, where it runs, checkpoints on disk, and a run's log."""

import argparse
import csv
import hashlib
import io
import math
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, Quiet, environment, serving

import tools
from tools import UserError

import torch


# ---- How a script ends
def ending(main):
    """What tools.run(main) ends with: an exit status, or the sentence in its place."""
    with pytest.raises(SystemExit) as end:
        tools.run(main)
    return end.value.code


def raising(problem):
    """A `main` that raises this."""

    def main():
        raise problem

    return main


@pytest.mark.parametrize(
    "problem, code",
    [
        (UserError("give more."), "error: give more."),
        (OSError(28, "No space left on device"), "error: [Errno 28] No space left on device"),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_users_mistake_is_one_sentence(problem, code):
    assert ending(raising(problem)) == code


def test_where_memory_runs_out_the_sentence_says_what_to_lower():
    for main in (lambda: torch.empty(10**15), raising(MemoryError()), raising(torch.OutOfMemoryError("CUDA memory"))):
        assert ending(main).startswith("error: there is not enough memory") and "--batch" in ending(main)


@pytest.mark.parametrize("problem", [RuntimeError("the shapes do not match"), KeyError("a mistake of ours")])
def test_our_own_mistakes_are_not_hidden(problem):
    with pytest.raises(type(problem)):
        tools.run(raising(problem))


def test_standard_output_may_be_a_notebooks(monkeypatch):
    notebook = io.StringIO()  # it has no `reconfigure`
    monkeypatch.setattr(sys, "stdout", notebook)
    tools.run(lambda: print("அ"))
    assert notebook.getvalue() == "அ\n"


def run_printing(characters, stdout):
    """A process whose `main` prints so many characters."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import tools; tools.run(lambda: print('x' * {characters}))"
    )
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, env=environment(), stdout=stdout, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_device_is_one_sentence():
    with open("/dev/full", "w") as full:
        process = run_printing(1, full)  # so little that it is noticed at the end alone
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (1, 1) and err.startswith("error: ") and "space" in err


def test_a_reader_that_has_seen_enough_is_no_mistake():
    process = run_printing(10**6, subprocess.PIPE)
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (0, "")
    process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_to_stop_and_the_second_stops(number, capfd):
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop = tools.StopRequest()
        assert not stop.made
        signal.raise_signal(number)
        assert stop.made and "Stopping after this step" in capfd.readouterr().err
        assert all(signal.getsignal(each) == signal.SIG_DFL for each in handlers)
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)


def test_a_claim_is_printed_once_it_is_found_true(capsys):
    tools.check("1 is 1", True)
    assert capsys.readouterr().out == "  checked: 1 is 1\n"
    with pytest.raises(AssertionError, match="does not hold: 1 is 2"):
        tools.check("1 is 2", False)


# ---- The command line
@pytest.mark.parametrize(
    "kind, text, value",
    [(int, "1", 1), (int, "100", 100), (float, "1", 1.0), (float, "99.5", 99.5), (int, "0", None), (int, "101", None),
     (int, "1.5", None), (int, "x", None), (int, "9" * 30, None), (int, "9" * 5000, None), (float, "1e100", None),
     (float, "nan", None), (float, "inf", None), (float, "-inf", None), (float, "0.99", None), (float, "", None)],
)  # fmt: skip
def test_numbers_have_limits(kind, text, value):
    convert = tools.between(kind, 1, 100)
    if value is not None:
        assert convert(text) == value and type(convert(text)) is kind
    else:
        with pytest.raises(argparse.ArgumentTypeError, match="is not allowed; give a .*number from 1 to 100"):
            convert(text)


def test_a_fresh_seed_is_printed_and_gives_the_same_again(capsys):
    drawn = torch.rand(5, generator=tools.seeded_generator(None))
    seed = int(capsys.readouterr().err.removeprefix("seed "))
    assert torch.equal(drawn, torch.rand(5, generator=tools.seeded_generator(seed)))
    assert capsys.readouterr().err == ""
    assert not torch.equal(drawn, torch.rand(5, generator=tools.seeded_generator(None)))


@pytest.mark.parametrize(
    "system, path, quoted",
    [("posix", "/home/my files/a.pt", "'/home/my files/a.pt'"), ("posix", "/tmp/a.pt", "/tmp/a.pt"),
     ("nt", r"C:\My Files\a.pt", r'"C:\My Files\a.pt"'), ("nt", r"C:\here&there\a.pt", r'"C:\here&there\a.pt"')],
)  # fmt: skip
def test_a_path_is_quoted_for_the_shell_that_reads_it(monkeypatch, system, path, quoted):
    monkeypatch.setattr(tools, "os", SimpleNamespace(name=system))
    assert tools.quote(path) == quoted


def test_the_command_names_the_best_weights_once_there_are_some(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run.pt"
    tools.print_command("python x.py", out)
    (tmp_path / "run_best.pt").touch()
    tools.print_command("python x.py", out)
    monkeypatch.setenv("RANK", "1")  # the second of several processes
    tools.print_command("python x.py", out)
    assert capsys.readouterr().out == "".join(
        f"python x.py --checkpoint {tools.quote(path)}\n" for path in (out, tmp_path / "run_best.pt")
    )


# ---- Tables and files
def test_error_of_a_mean(capsys):
    assert tools.mean_and_error(torch.tensor([1.0, 2.0, 3.0])) == pytest.approx((2.0, 1 / 3**0.5))
    tools.print_row("name", "{:.1f}", [(1.25, 0.5), (2.0, 0.1)])
    assert capsys.readouterr().out == "| name | 1.2 +- 0.5 | 2.0 +- 0.1 |\n"


@pytest.fixture
def server():
    """A web server on the loopback: /good is whole, /short is cut in the middle, /slow drips, the rest is not found."""

    class Handler(Quiet):
        def do_GET(self):
            content = b"To be, or not to be" * 100
            if self.path == "/missing":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.path != "/slow":
                self.wfile.write(content[:700] if self.path == "/short" else content)
                return
            for byte in content[:30]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)

    with serving(Handler) as address:
        yield address


GOOD = hashlib.sha256(b"To be, or not to be" * 100).hexdigest()


def test_download_and_then_no_network(server, tmp_path):
    path = tmp_path / "data" / "t.txt"
    assert tools.download(f"{server}/good", GOOD, path).read_bytes().startswith(b"To be")
    assert tools.download("http://127.0.0.1:9/nobody", GOOD, path) == path
    assert [p.name for p in path.parent.iterdir()] == ["t.txt"]


@pytest.mark.parametrize(
    "page, checksum, limits",
    [("missing", GOOD, {}), ("short", GOOD, {}), ("good", "0" * 64, {}), ("slow", GOOD, dict(DOWNLOAD_SECONDS=0.3)),
     ("good", GOOD, dict(MAX_DOWNLOAD=100))],
    ids=["missing", "short", "wrong", "slow", "large"],
)  # fmt: skip
def test_failed_download_leaves_nothing_and_says_what_to_do(server, tmp_path, monkeypatch, page, checksum, limits):
    for name, value in limits.items():
        monkeypatch.setattr(tools, name, value)
    path = tmp_path / "t.txt"
    with pytest.raises(UserError) as refusal:
        tools.download(f"{server}/{page}", checksum, path)
    assert f"{server}/{page}" in str(refusal.value) and str(path) in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_failed_download_keeps_the_file_that_was_there(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("an edited copy")
    with pytest.raises(UserError):
        tools.download("http://127.0.0.1:9/nobody", GOOD, path)
    assert path.read_text() == "an edited copy"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path, seen = tmp_path / "folder" / "file", []
    tools.write_safely(path, b"old")
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda new, old: seen.append(path.read_bytes()) or replace(new, old))
    tools.write_safely(path, b"new")
    assert seen == [b"old"]  # until all of it is written
    assert path.read_bytes() == b"new" and [p.name for p in path.parent.iterdir()] == ["file"]


def test_full_disk_leaves_the_old_file(tmp_path):
    resource = pytest.importorskip("resource")  # not on Windows
    path = tmp_path / "file"
    tools.write_safely(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # a write beyond it fails, as on a full disk
    try:
        with pytest.raises(UserError, match="could not save"):
            tools.write_safely(path, b"new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# ---- Where it runs
@pytest.mark.parametrize(
    "given, looks",
    [({}, "5000"), (dict(GOMP_SPINCOUNT="7"), "7"), (dict(OMP_WAIT_POLICY="ACTIVE"), "None")],
)
def test_threads_soon_sleep_unless_the_user_says_otherwise(given, looks):
    free = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import os, tools; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=free | given, capture_output=True, text=True)
    assert done.stdout.split() == [looks]


def test_unknown_device_is_refused():
    with pytest.raises(UserError, match="no device 'tpu'"):
        tools.pick_device("tpu")


@pytest.mark.parametrize(
    "float32, bfloat16, chosen", [(2.0, 1.0, "bfloat16"), (1.0, 2.0, "float32"), (1.0, 1.0, "float32")]
)
def test_the_faster_dtype_is_chosen(monkeypatch, float32, bfloat16, chosen):
    seconds = {torch.float32: float32, torch.bfloat16: bfloat16}
    monkeypatch.setattr(tools, "time_product", lambda width, dtype: seconds[dtype] * width)
    dtype, why = tools.native_dtype(torch.device("cpu"), 384)
    assert dtype == getattr(torch, chosen)
    assert f"width 384 is {float32 / bfloat16:.1f} times as fast" in why


def test_a_product_is_timed():
    assert tools.time_product(32, torch.float32, rows=8, repeats=2) > 0


def test_what_must_not_be_noticed_leaves_the_generators_alone():
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    expected = torch.rand(3), torch.rand(3, device=device)
    torch.manual_seed(0)
    with tools.same_generators(device):
        torch.rand(5), torch.rand(5, device=device)
    assert all(map(torch.equal, expected, (torch.rand(3), torch.rand(3, device=device))))


@pytest.mark.parametrize("states", [None, {}, {"batches": 1, "cpu": 2}, {"batches": torch.zeros(3)}, [1]])
def test_damaged_generators_are_one_sentence(states):
    with pytest.raises(UserError, match="generators are damaged"):
        tools.restore_generators(states, torch.Generator(), torch.device("cpu"), "run.pt")


# ---- Checkpoints on disk
def rewritten(source, path, compression=zipfile.ZIP_STORED, **contents):
    """A copy of an archive, with another compression, or other contents for the entries whose names end so."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", compression) as new:
        for entry in old.infolist():
            changed = [data for name, data in contents.items() if entry.filename.endswith(name)]
            new.writestr(entry.filename, changed[0] if changed else old.read(entry))
    return path


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    contents = dict(model={"w": torch.randn(3, 4)}, step=5, text="x")
    tools.save_checkpoint(contents, tmp_path / "a.pt")
    back = tools.read_checkpoint(rewritten(tmp_path / "a.pt", tmp_path / "b.pt"))
    assert torch.equal(back["model"]["w"], contents["model"]["w"]) and back["step"] == 5 and back["text"] == "x"


def test_an_archive_that_unpacks_to_more_than_it_is_is_not_opened(tmp_path, monkeypatch):
    tools.save_checkpoint(dict(model={"w": torch.zeros(10**6)}), tmp_path / "a.pt")
    path = rewritten(tmp_path / "a.pt", tmp_path / "b.pt", zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(UserError, match="compressed"):
        tools.read_checkpoint(path)
    monkeypatch.setattr(tools, "MAX_FILE", 1000)
    with pytest.raises(UserError, match="larger than"):
        tools.read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("strides", [(0,), (2,)])
def test_a_tensor_that_claims_more_than_its_data_is_refused(tmp_path, strides):
    tensor = torch.zeros(8).as_strided((4,), strides)
    tools.save_checkpoint(dict(model={"w": tensor}), tmp_path / "a.pt")
    with pytest.raises(UserError, match="larger than its data"):
        tools.read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "declared, good, bad",
    [
        ((int, 1, 9), [1, 9], [0, 10, 1.0, True, None, "1", [1]]),
        ((float, 0, 1), [0, 0.5, 1], [-0.1, 1.1, math.nan, math.inf, "0", None, True]),
        ((str, 1, 3), ["a", "abc"], ["", "abcd", 1, None]),
        ((list, 0, 2), [[], [1, 2]], [[1, 2, 3], (1,), None]),
        ([True, False], [True, False], [1, 0, None, "True"]),
        (["steps", "minutes"], ["steps"], ["hours", None, 1]),
    ],
)
def test_fields_are_of_their_kind_and_size(declared, good, bad):
    for value in good:
        tools.check_fields(dict(x=value), dict(x=declared), "a.pt")
    for value in bad:
        with pytest.raises(UserError, match="a.pt .* its x is "):
            tools.check_fields(dict(x=value), dict(x=declared), "a.pt")
    for values in ({}, None, [1]):
        with pytest.raises(UserError, match="its x is 'None'"):
            tools.check_fields(values, dict(x=declared), "a.pt")


@pytest.mark.parametrize("units", [["a"], ["a", "a"], ["a", ""], ["a", 1], ["a", "b" * 17], "ab", None])
def test_an_alphabet_is_checked(units):
    assert tools.checked_units(["a", "b"], 2, "a.pt") == ["a", "b"]
    with pytest.raises(UserError, match="alphabet"):
        tools.checked_units(units, 2, "a.pt")


@pytest.mark.parametrize(
    "weights",
    [{}, {"weight": torch.zeros(2, 3)}, {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, {"weight": 1, "bias": 2},
     {"weight": torch.zeros(2, 3).long(), "bias": torch.zeros(2)},
     {"weight": torch.full((2, 3), math.nan), "bias": torch.zeros(2)}],
)  # fmt: skip
def test_weights_must_fit_the_model_and_be_numbers(weights):
    model = torch.nn.Linear(3, 2)
    tools.check_weights(model.state_dict(), model, "a.pt")
    with pytest.raises(UserError, match="a.pt is (not a whole checkpoint|damaged)"):
        tools.check_weights(weights, model, "a.pt")


def test_the_optimizers_state_must_fit_the_model():
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    tools.check_optimizers([optimizer.state_dict()["state"]], [optimizer], "a.pt")  # nothing yet
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()["state"]
    tools.check_optimizers([state], [optimizer], "a.pt")
    wrong = [{**state[0], "exp_avg": torch.zeros(3)}, {**state[0], "step": torch.tensor(math.nan)}, {"step": 1}, None]
    for states in ([], [state] * 2, [{0: state[0]}], [None], *([{**state, 0: each}] for each in wrong)):
        with pytest.raises(UserError, match="optimizers' state"):
            tools.check_optimizers(states, [optimizer], "a.pt")


# ---- A training run: what it is told
PRESETS = {"tiny": dict(context=128), "small": dict(context=128), "base": dict(context=256)}
TEXT = "to be or not to be"


def settled(out, *flags, script="05_train.py"):
    """tools.settle for these flags."""
    args = tools.training_parser("", "run.pt", PRESETS).parse_args([*map(str, flags), "--out", str(out)])
    return tools.settle(args, script, PRESETS)


def save_run(out, settings, **changes):
    """Saves a run as far as settle reads it; changes: of its settings and its state."""
    saved = tools.replace(tools.with_text(settings, TEXT), dtype="float32").saved()
    state = dict(step=3, characters=9, seconds=1.0, lr=0.1, heldout=math.inf, due=False, losses=[1.0])
    state |= dict(model={"w": torch.zeros(1)}, optimizers=[])
    for name, value in changes.items():
        (saved if name in saved else state)[name] = value
    tools.save_checkpoint(dict(settings=saved, **state), out)


def test_flags_and_defaults_make_the_settings(tmp_path, capsys):
    settings, saved = settled(tmp_path / "run.pt", "--preset", "tiny", "--steps", 7, "--dtype", "bfloat16", "--seed", 3)
    assert saved is None
    assert settings == tools.Settings(
        script="05_train.py", preset="tiny", batch=32, lr=0.025, dropout=0.0, weight_decay=0.0, seed=3,
        dtype="bfloat16", limit=7, unit="steps", data="", sha256="", out=tmp_path / "run.pt", device="auto",
        compiles=True,
    )  # fmt: skip
    settings, _ = settled(tmp_path / "run.pt", "--minutes", 2, "--no-compile", "--device", "cpu")
    assert (settings.limit, settings.unit, settings.preset, settings.compiles) == (2, "minutes", "small", False)
    assert capsys.readouterr().err == "preset small\n"
    assert settled(tmp_path / "run.pt", "--preset", "tiny")[0].limit == 5
    assert settled(tmp_path / "run.pt", "--preset", "base")[0].batch == 16  # windows, twice as long
    assert settled(tmp_path / "run.pt", "--preset", "base", "--batch", 5)[0].batch == 5


def test_a_resumed_run_takes_what_was_saved_and_what_may_change(tmp_path):
    out = tmp_path / "run.pt"
    began, _ = settled(out, "--preset", "tiny", "--steps", 7, "--lr", 0.5)
    save_run(out, began)
    settings, saved = settled(out, "--resume")
    assert saved["step"] == 3
    assert settings == tools.replace(tools.with_text(began, TEXT), dtype="float32")
    settings, _ = settled(out, "--resume", "--minutes", 9, "--dropout", 0.3, "--data", "other.txt")
    assert (settings.limit, settings.unit, settings.dropout, settings.lr) == (9, "minutes", 0.3, 0.5)
    assert settings.data == str(Path("other.txt").resolve())


@pytest.mark.parametrize(
    "flag, value", [("preset", "base"), ("batch", 32), ("lr", 0.5), ("seed", 0), ("dtype", "float32")]
)
def test_what_a_run_cannot_change_is_refused(tmp_path, flag, value):
    out = tmp_path / "run.pt"
    save_run(out, settled(out, "--preset", "tiny")[0])
    with pytest.raises(UserError, match=f"leave out --{flag}"):
        settled(out, "--resume", f"--{flag}", value)


def test_another_scripts_run_is_refused(tmp_path):
    out = tmp_path / "run.pt"
    save_run(out, settled(out, "--preset", "tiny")[0])
    with pytest.raises(UserError, match="of another kind: it was begun by '05_train.py'"):
        settled(out, "--resume", script="08_train_tamil.py")


@pytest.mark.parametrize(
    "changes",
    [dict(preset="nope"), dict(batch=-1), dict(batch=10**12), dict(lr=math.nan), dict(lr=None), dict(dropout=5),
     dict(seed=2**70), dict(data=5), dict(limit=0), dict(unit="hours"), dict(sha256=""), dict(dtype="auto"),
     dict(step=-5), dict(step=[1]), dict(characters=math.nan), dict(due=1), dict(losses=[1.0, "x"]), dict(losses=None),
     dict(optimizers=None), dict(settings=None), dict(settings=[])],
    ids=str,
)  # fmt: skip
def test_a_run_whose_settings_or_state_are_wrong_is_one_sentence(tmp_path, changes):
    out = tmp_path / "run.pt"
    save_run(out, settled(out, "--preset", "tiny")[0])
    settled(out, "--resume")
    if "settings" in changes:
        tools.save_checkpoint(tools.read_checkpoint(out) | changes, out)
    else:
        save_run(out, settled(tmp_path / "new.pt", "--preset", "tiny")[0], **changes)
    before = out.read_bytes()
    with pytest.raises(UserError, match=str(out)):
        settled(out, "--resume")
    assert out.read_bytes() == before


@pytest.mark.parametrize("name", ["run.pt", "run_best.pt", "run.csv", "run.png"])
def test_nothing_of_an_earlier_run_is_overwritten(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=name):
        settled(tmp_path / "run.pt", "--preset", "tiny")


def test_the_same_text_goes_on_and_another_does_not(tmp_path):
    settings, _ = settled(tmp_path / "run.pt", "--preset", "tiny", "--data", "verse.txt")
    began = tools.with_text(settings, TEXT)
    assert began.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    assert tools.with_text(began, TEXT) == began
    with pytest.raises(UserError, match="another text"):
        tools.with_text(began, TEXT + ".")


# ---- A training run: its log
class FakeRun:
    """As much of a run as a Reporter sees: 10 steps; its held-out figure counts the measurements."""

    def __init__(self, out, step=0, due=False):
        self.settings = SimpleNamespace(out=out, dtype="float32", batch=1)
        self.model, self.device = torch.nn.Linear(1, 1), torch.device("cpu")
        self.step, self.due, self.losses, self.lr, self.heldout, self.best = step, due, [], 0.1, math.inf, math.inf
        self.saved, self.measured = [], 0

    characters = property(lambda self: 100 * self.step)
    seconds = property(lambda self: float(self.step))

    def progress(self):
        return self.step / 10

    def evaluate(self, objective, windows):
        self.measured += 1
        self.heldout = self.best = self.measured / 10

    def save(self):
        self.saved.append((self.step, self.due))


def report(reporter, run, last):
    """Reports the steps up to the last one."""
    while run.step < last:
        before = run.progress()
        run.step += 1
        reporter.report(1 / run.step, before)


def logged(out):
    """[(step, heldout)] in the log of a run."""
    with open(out.with_suffix(".csv"), newline="") as file:
        return [(int(row["step"]), row["heldout"]) for row in csv.DictReader(file)]


OBJECTIVE, WINDOWS = SimpleNamespace(label="bound"), torch.zeros(5, 4)


def test_a_run_is_measured_saved_and_logged_in_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tools, "EVALUATIONS", 2)
    run = FakeRun(tmp_path / "run.pt")
    reporter = tools.Reporter(run, OBJECTIVE, WINDOWS)
    report(reporter, run, 10)
    reporter.finish()
    assert run.saved == [(5, True), (10, True), (10, False)]  # before it is measured, that nothing be lost
    assert logged(run.settings.out) == [(n, {5: "0.1000", 10: "0.2000"}.get(n, "")) for n in range(1, 11)]
    assert (tmp_path / "run.png").exists()
    err = capsys.readouterr().err
    assert "Best held-out bound: 0.200 nats/character" in err and "To generate from the best weights:" in err


@pytest.mark.parametrize("already_logged", [False, True])
def test_a_run_killed_around_a_measurement_is_measured_once(tmp_path, monkeypatch, already_logged):
    monkeypatch.setattr(tools, "EVALUATIONS", 2)
    out = tmp_path / "run.pt"
    run = FakeRun(out)
    reporter = tools.Reporter(run, OBJECTIVE, WINDOWS)
    report(reporter, run, 4)
    if already_logged:
        report(reporter, run, 7)
    reporter.bar.close()
    resumed = FakeRun(out, step=5, due=True)  # what was saved last
    resumed.losses = [1.0]
    reporter = tools.Reporter(resumed, OBJECTIVE, WINDOWS)
    reporter.bar.close()
    assert resumed.measured == 1 and not resumed.due
    assert logged(out) == [(1, ""), (2, ""), (3, ""), (4, ""), (5, "0.1000")]


def test_in_a_long_run_the_losses_of_a_row_do_not_pile_up(tmp_path, monkeypatch):
    assert tools.STATE["losses"][2] > tools.MOST_LOSSES  # or a run could not be resumed
    monkeypatch.setattr(tools, "LOG_ROWS", 1)
    monkeypatch.setattr(tools, "EVALUATIONS", 1)
    monkeypatch.setattr(tools, "MOST_LOSSES", 3)
    run = FakeRun(tmp_path / "run.pt")
    reporter = tools.Reporter(run, OBJECTIVE, WINDOWS)
    report(reporter, run, 10)
    reporter.bar.close()
    assert logged(run.settings.out) == [(3, ""), (6, ""), (9, ""), (10, "0.1000")]


def test_a_loss_that_is_no_number_stops_the_run_unsaved(tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "EVALUATIONS", 10)
    run = FakeRun(tmp_path / "run.pt", step=1)
    reporter = tools.Reporter(run, OBJECTIVE, WINDOWS)
    with pytest.raises(UserError, match="smaller --lr"):
        reporter.report(math.nan, 0.0)
    assert run.saved == [] and not (tmp_path / "run.csv").exists()


def test_a_log_takes_up_the_rows_up_to_its_step(tmp_path):
    path = tmp_path / "run.csv"
    log = tools.Log(path, 0)
    for step in (1, 2, 3):
        log.add(step, 1.0, 10 * step, 0.1, 2.0, "")
    with open(path, "ab") as file:
        file.write(b"4,\xff\nx,1,1,1,1,1\n")  # what a damaged disk leaves
    assert [row["step"] for row in tools.Log(path, 2).rows] == ["1", "2"]
    assert tools.Log(path, 0).rows == []
    assert [row["step"] for row in tools.Log(path, 9).rows][:3] == ["1", "2", "3"]
    assert tools.Log(path, 9).draw("bound") == tmp_path / "run.png"
