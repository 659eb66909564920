"""Lesson 5: training that can be interrupted, resumed and shared, and runs that cannot be lost."""

import csv
import itertools
import math
import re
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module

import pytest
from conftest import VERSE, assert_refused, random_model, run_script, save_model, start

from tools import devices, training_run
from tools.checkpoints import read_checkpoint, save_checkpoint
from tools.command_line import UserError
from tools.settings import Settings

import torch
import torch.distributed as dist
from torch.nn import functional as F

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Runs in this process train a smaller model than `tiny`, and measure it twice, with a sample in two passes."""
    write = diffusion.sample
    monkeypatch.setitem(transformer.PRESETS, "tiny", dict(context=64, n_layers=2, n_heads=2, dim=32))
    monkeypatch.setattr(training_run, "EVALUATIONS", 2)
    monkeypatch.setattr(diffusion, "sample", lambda model, canvas, steps, **options: write(model, canvas, 2, **options))


def train(tmp_path, text_file, *arguments, out="run.safetensors", script="05_train.py", **options):
    """Runs a lesson's training on a small text, two windows in a step, or goes on with such a run."""
    shape = ["--preset", "tiny", "--batch", 2, "--data", text_file]
    given = [*([] if "--resume" in arguments else shape), *arguments]
    given += [] if {"--resume", "--dtype"} & set(arguments) else ["--dtype", "float32"]
    return run_script(script, *given, "--out", tmp_path / out, **options)


def rows(path):
    """The rows of a log, each a dict of texts."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def same(a, b):
    """Whether two nested structures of tensors and plain values are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_runs(tmp_path, one="whole", two="run"):
    """Two runs left the same, but for the clock and their names."""
    for name in ("{}.safetensors", "{}_best.safetensors"):
        whole, other = (read_checkpoint(tmp_path / name.format(run)) | {"seconds": 0} for run in (one, two))
        assert whole.keys() == other.keys()
        assert [field for field in whole if not same(whole[field], other[field])] == []
    logs = [[row | {"seconds": 0} for row in rows(tmp_path / f"{run}.csv")] for run in (one, two)]
    assert logs[0] == logs[1]


@contextmanager
def at_call(module, name, number, act):
    """Inside, the function of this name calls act() before its call of this number, counted from 1."""
    original, calls = getattr(module, name), itertools.count(1)

    def function(*arguments, **options):
        if next(calls) == number:
            act()
        return original(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, function)
        yield


STEP = torch.nn.utils, "clip_grad_norm_"  # it is called in the middle of each step


def killed():
    raise KeyboardInterrupt  # nothing in the run catches it, so that nothing is saved


# ---- Runs of a very small model, by `train` itself
def train_here(tmp_path, steps=1, objective=training.DIFFUSION, text=VERSE * 5, saved=None, **changes):
    """Trains a model of one block on a text. Returns the weights that it ended with."""
    settings = Settings(
        script="test", preset="tiny", batch=4, lr=0.025, dropout=0.0, weight_decay=0.0, seed=0, dtype="float32",
        limit=steps, unit="steps", data="", sha256="", out=tmp_path / "here.safetensors", device="cpu", compiles=False,
    )  # fmt: skip
    settings = replace(settings, **changes)
    tokenizer = tensors.Tokenizer(sorted(set(text)))
    config = transformer.Config(tokenizer.vocab_size, 16, 1, 2, 16, objective.causal, settings.dropout)
    tokens, windows = tensors.split_text(text, tokenizer, 16)
    draw = tensors.random_windows(tokens, 16, settings.batch)
    training.train(settings, objective, tokenizer, config, draw, windows, saved)
    return read_checkpoint(settings.out)["model"]


def test_learning_rate_warms_up_and_falls():
    assert training.get_lr(0, 0) == pytest.approx(1 / training.WARMUP_STEPS)
    assert training.get_lr(training.WARMUP_STEPS, 0) == 1
    assert training.get_lr(1000, 0.5) == pytest.approx((1 + training.FINAL_LR) / 2)
    assert training.get_lr(1000, 1) == pytest.approx(training.FINAL_LR)


def test_a_run_follows_the_learning_rate_with_adamw_at_its_own(tmp_path):
    """AdamW's first step moves each number by the learning rate, whatever the gradient."""
    weights = train_here(tmp_path / "a", lr=0.5)
    first = 0.5 * training.get_lr(0, 0) * transformer.ADAMW_LR_RATIO
    assert weights["head.weight"].abs().max().item() == pytest.approx(first, rel=1e-3)  # it began at 0
    train_here(tmp_path, steps=30, lr=0.5)
    logged = [float(row["lr"]) for row in rows(tmp_path / "here.csv")]
    assert logged == pytest.approx([0.5 * training.get_lr(step, step / 30) for step in range(30)], abs=1e-5)


def test_muon_moves_by_the_learning_rate_too(tmp_path, monkeypatch):
    """Its step has singular values of about 1, times the learning rate; the first step has no gradient for it yet."""
    monkeypatch.setattr(training, "get_lr", lambda step, progress: [1, 0, 1][step])  # at the second step nothing moves
    before, after = (train_here(tmp_path / str(steps), steps, lr=0.01) for steps in (2, 3))
    name = "blocks.0.attention.output.weight"
    moved = torch.linalg.svdvals(after[name] - before[name]) / 0.01
    assert 0.5 < moved.max() < 1.3


def test_a_huge_gradient_is_cut_to_length_1(tmp_path, monkeypatch):
    entropy = diffusion.masked_cross_entropy
    monkeypatch.setattr(diffusion, "masked_cross_entropy", lambda *args: 1000 * entropy(*args))
    train_here(tmp_path)
    muon, adamw = read_checkpoint(tmp_path / "here.safetensors")["optimizers"]
    gradients = [kept["average"] / 0.05 for kept in muon.values()] + [kept["exp_avg"] / 0.1 for kept in adamw.values()]
    assert math.sqrt(sum(g.square().sum().item() for g in gradients)) == pytest.approx(1, rel=1e-3)


def test_weight_decay_takes_its_share_of_the_hidden_matrices_and_of_nothing_else(tmp_path):
    kept = train_here(tmp_path / "kept", lr=0.01)
    faded = train_here(tmp_path / "faded", lr=0.01, weight_decay=0.5)
    torch.manual_seed(0)  # as the run has it
    began = transformer.Transformer(transformer.Config(len(set(VERSE)), 16, 1, 2, 16)).state_dict()
    for name, weights in kept.items():
        share = 0.01 * training.get_lr(0, 0) * 0.5 if name.startswith("blocks") and weights.ndim == 2 else 0
        torch.testing.assert_close(faded[name], weights - share * began[name], atol=1e-7, rtol=0)


def test_each_process_drops_out_by_its_own_lot(tmp_path, monkeypatch):
    """As each of three processes, one after the other: what dropout does is what torch.rand is."""
    drawn, agree = {0: [], 1: [], 2: []}, training.agree
    for rank in drawn:

        def prepare(tokens, V, generator, rank=rank):
            drawn[rank].append(F.dropout(torch.ones(64), 0.5).tolist())
            return diffusion.hide_some(tokens, V, generator)

        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        monkeypatch.setattr(training, "rank_and_number", lambda rank=rank: (rank, 3))
        if rank:  # no one measures here, so the clock of the first one is not there: stop by the steps
            stopped = lambda number, device, rank=rank: agree(len(drawn[rank]) / 2, device)  # noqa: E731
            monkeypatch.setattr(training, "agree", stopped)
        train_here(tmp_path, 2, replace(training.DIFFUSION, prepare=prepare), dropout=0.5, batch=3)
    for step in zip(*drawn.values(), strict=True):
        assert len(set(map(tuple, step))) == 3
    with pytest.raises(UserError, match="evenly"):
        train_here(tmp_path, batch=4)


def test_what_is_measured_is_what_is_kept(tmp_path, monkeypatch):
    """The best weights, rounded to bfloat16; here the middle of three measurements is the best."""
    figures, measured = iter([0.7, 0.3, 0.5]), []

    def heldout(model, windows):
        assert not model.training
        measured.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(figures)

    monkeypatch.setattr(training_run, "EVALUATIONS", 3)
    train_here(tmp_path, steps=6, objective=replace(training.DIFFUSION, heldout=heldout))
    for weights in measured:
        assert all(torch.equal(value, value.bfloat16().float()) for value in weights.values())
    best = read_checkpoint(tmp_path / "here_best.safetensors")
    assert (best["step"], best["heldout"]) == (4, 0.3)
    assert same(best["model"], {name: value.bfloat16() for name, value in measured[1].items()})
    assert read_checkpoint(tmp_path / "here.safetensors")["heldout"] == 0.5


def test_a_loss_that_is_no_number_is_not_saved(tmp_path, monkeypatch):
    losses, entropy = iter([1.0, 1.0, math.nan]), diffusion.masked_cross_entropy
    monkeypatch.setattr(diffusion, "masked_cross_entropy", lambda *args: next(losses) * entropy(*args))
    monkeypatch.setattr(diffusion, "bound", lambda model, part, generator: torch.ones(len(part)))
    with pytest.raises(UserError, match="smaller --lr"):
        train_here(tmp_path, steps=6)
    assert read_checkpoint(tmp_path / "here.safetensors")["step"] == 0  # as it began


def test_of_two_runs_that_begin_at_once_with_one_name_one_goes_on(tmp_path):
    """In threads, which are not the main one, so that signals are left alone."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(train_here, tmp_path, 4, seed=seed) for seed in (0, 1)]
    problems = [run.exception() for run in runs]
    [lost] = [problem for problem in problems if problem]
    assert isinstance(lost, UserError) and "here.safetensors exists, and is not overwritten" in str(lost)
    saved = read_checkpoint(tmp_path / "here.safetensors")
    assert saved["settings"]["seed"] == problems.index(None) and saved["step"] == 4
    assert [int(row["step"]) for row in rows(tmp_path / "here.csv")] == [1, 2, 3, 4]
    train_here(tmp_path / "main")  # in the main thread, they are as before when it is over
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_dtype_is_the_one_that_is_given_or_else_the_faster(tmp_path, text_file, monkeypatch):
    """Seen in what the matrices of the model are multiplied in, and in the weights."""
    seen, weights, linear = [], {}, F.linear
    note = lambda x, *args: seen.append(linear(x, *args)) or seen[-1]  # noqa: E731
    monkeypatch.setattr(F, "linear", lambda *args: note(*args) if torch.is_grad_enabled() else linear(*args))
    for faster, slower in itertools.permutations(("float32", "bfloat16")):
        seconds = {getattr(torch, faster): 1.0, getattr(torch, slower): 2.0}
        monkeypatch.setattr(devices, "time_product", lambda width, dtype, seconds=seconds: seconds[dtype])
        for given, dtype in (("auto", faster), (slower, slower)):
            seen.clear()
            out = f"{faster}_{given}.safetensors"
            code, _, err = train(tmp_path, text_file, "--steps", 2, "--dtype", given, out=out)
            assert code == 0 and (f"{dtype}: here a matrix product" in err) == (given == "auto"), err
            assert {output.dtype for output in seen} == {getattr(torch, dtype)}
            saved = read_checkpoint(tmp_path / out)
            assert saved["settings"]["dtype"] == dtype
            weights.setdefault(dtype, []).append(saved["model"])
    assert all(same(*pair) for pair in weights.values())
    assert not same(weights["float32"][0], weights["bfloat16"][0])


# ---- Whole runs
def test_a_whole_run_leaves_what_it_says(tmp_path, text_file):
    code, out, err = train(tmp_path, text_file, "--steps", 12)
    assert code == 0, err
    assert out.strip() == f"python 06_generate.py --checkpoint {tmp_path / 'run_best.safetensors'}"
    names = ["run.csv", "run.png", "run.safetensors", "run_best.safetensors", "verse.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    log = rows(tmp_path / "run.csv")
    assert [int(row["step"]) for row in log] == list(range(1, 13))
    assert [int(row["characters"]) for row in log] == [2 * 64 * step for step in range(1, 13)]
    assert float(log[-1]["loss"]) < float(log[0]["loss"])
    measured = [float(row["heldout"]) for row in log if row["heldout"]]
    assert len(measured) == training_run.EVALUATIONS

    best = tmp_path / "run_best.safetensors"
    model, tokenizer, info = training.load_checkpoint(best)
    assert info["heldout"] == pytest.approx(min(measured), abs=1e-4)
    _, windows = tensors.split_text(text_file.read_text(), tokenizer, 64)
    assert training.heldout_bound(model, windows)[0] == pytest.approx(info["heldout"], abs=1e-6)
    assert all(value.dtype == torch.bfloat16 for value in read_checkpoint(best)["model"].values())
    code, out, err = run_script("05_train.py", "--evaluate", best, "--data", text_file)
    figure, error = map(float, re.search(r": bound (\S+) \+- (\S+) nats/character", out).groups())
    assert code == 0 and figure == pytest.approx(info["heldout"], abs=20 * error), err
    assert [round(x, 4) for x in training.heldout_bound(model, windows, draws=16)] == [figure, error]


def test_heldout_bound_is_repeatable_and_leaves_the_training_generator_alone(small_model):
    model, tokenizer = small_model
    windows = torch.randint(tokenizer.vocab_size, (70, 32))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = training.heldout_bound(model, windows, draws=3)
    assert first == training.heldout_bound(model, windows, draws=3) and first[1] > 0
    assert torch.equal(before, torch.get_rng_state())
    assert math.isnan(training.heldout_bound(model, windows)[1])


def test_the_plain_loop_learns_and_prints(text_file, capsys, monkeypatch):
    training.train_plainly(text_file.read_text(), steps=3)
    out = capsys.readouterr().out
    assert re.match(r"step 0  loss \d\.\d\d\nheld-out bound \d\.\d\d nats/character\n", out)
    assert len(out.split("nats/character\n")[1]) == 64 + 1
    plainly = []
    monkeypatch.setattr(training, "train_plainly", plainly.append)
    monkeypatch.setattr(sys, "argv", ["05_train.py", "--plain", "--data", str(text_file)])
    training.main()
    assert plainly == [text_file.read_text()]
    assert_refused(run_script("05_train.py", "--plain", "--steps", 3), 2, "--plain")


def test_a_run_may_be_limited_by_the_clock(tmp_path, text_file):
    code, _, err = train(tmp_path, text_file, "--minutes", 0.01)
    assert code == 0, err
    saved = read_checkpoint(tmp_path / "run.safetensors")
    assert saved["seconds"] >= 0.6 and saved["step"] >= 1 and rows(tmp_path / "run.csv")[-1]["heldout"]


TAMIL = "அகர முதல எழுத்தெல்லாம் ஆதி\nபகவன் முதற்றே உலகு.\n\n"


@pytest.mark.parametrize(
    "script, dtype, stop",
    [("05_train.py", "float32", signal.SIGTERM), ("05_train.py", "bfloat16", signal.SIGINT),
     ("07_train_gpt.py", "float32", signal.SIGINT), ("08_train_tamil.py", "float32", signal.SIGTERM)],
)  # fmt: skip
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, text_file, script, dtype, stop):
    flags = ["--steps", 8, "--dtype", dtype, "--dropout", 0.2]
    if "tamil" in script:
        text_file.write_text(TAMIL * 60, encoding="utf-8")
    assert train(tmp_path, text_file, *flags, out="whole.safetensors", script=script)[0] == 0
    with at_call(*STEP, 5, lambda: signal.raise_signal(stop)):
        code, _, err = train(tmp_path, text_file, *flags, script=script)
    assert code == 0 and "Go on by the same command with --resume" in err, err
    assert read_checkpoint(tmp_path / "run.safetensors")["step"] == 5
    code, _, err = train(tmp_path, text_file, "--resume", script=script)
    assert code == 0 and "matrix product" not in err, err
    assert_same_runs(tmp_path)


@pytest.mark.parametrize(
    "kill, step, due",
    [((*STEP, 1), 0, False), ((diffusion, "bound", 1), 2, True), ((*STEP, 3), 2, True)],
    ids=["in the first step", "as it measures", "after it"],
)
def test_killed_and_resumed_equals_uninterrupted(tmp_path, text_file, kill, step, due):
    assert train(tmp_path, text_file, "--steps", 4, out="whole.safetensors")[0] == 0
    with at_call(*kill, killed):
        assert train(tmp_path, text_file, "--steps", 4)[0] == 130
    saved = read_checkpoint(tmp_path / "run.safetensors")
    assert (saved["step"], saved["due"]) == (step, due)
    code, _, err = train(tmp_path, text_file, "--resume")
    assert code == 0, err
    assert [bool(row["heldout"]) for row in rows(tmp_path / "run.csv")] == [False, True, False, True]
    assert_same_runs(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_stops_a_process_and_it_goes_on(tmp_path, text_file, number):
    flags = ["--data", text_file, "--preset", "tiny", "--batch", 2, "--steps", 400, "--out", "run.safetensors"]
    process = start("05_train.py", *flags, cwd=tmp_path)
    while not (tmp_path / "run.csv").exists():  # its second step
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    saved = read_checkpoint(tmp_path / "run.safetensors")["step"]
    if number == signal.SIGTERM:
        assert (
            process.returncode == 0
            and "Stopping after this step" in err
            and "Go on by the same command with --resume" in err
        ), err
        assert 0 < saved < 400
    assert train(tmp_path, text_file, "--resume", "--steps", saved + 2, env={})[0] == 0
    assert read_checkpoint(tmp_path / "run.safetensors")["step"] == saved + 2


def test_two_processes_follow_one(tmp_path, text_file):
    """Started as torchrun does, by what it tells them in the environment."""
    flags = ["--data", text_file, "--preset", "tiny", "--batch", 4, "--steps", 3, "--device", "cpu"]
    flags += ["--dtype", "float32"]  # bfloat16 rounds half batches otherwise, and Muon magnifies what is small
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    assert run_script("05_train.py", *flags, "--out", one, env={})[0] == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = dict(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    processes = [
        start("05_train.py", *flags, "--out", two, env=env | dict(RANK=rank, LOCAL_RANK=rank)) for rank in "01"
    ]
    (out, err), (out_of_second, err_of_second) = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], err + err_of_second
    assert (out, out_of_second) == (f"python 06_generate.py --checkpoint {tmp_path / 'two_best.safetensors'}\n", "")
    losses = [float(rows(path.with_suffix(".csv"))[-1]["loss"]) for path in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=2e-3)  # the mean over both, not the first one's
    one, two = read_checkpoint(one), read_checkpoint(two)
    assert two["step"] == 3
    torch.manual_seed(0)
    began = transformer.Transformer(transformer.Config(**one["config"])).state_dict()
    for name, value in one["model"].items():
        moved = (value - began[name]).norm()
        assert moved > 0 and (two["model"][name] - value).norm() < 0.01 * moved, name
    assert torch.equal(one["generators"]["batches"], two["generators"]["batches"])


def test_full_disk_is_one_sentence_and_keeps_the_last_save(tmp_path, text_file):
    resource = pytest.importorskip("resource")  # not on Windows
    assert train(tmp_path, text_file, "--steps", 2)[0] == 0
    before = (tmp_path / "run.safetensors").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))  # a write beyond it fails, as on a full disk
    try:
        code, out, err = train(tmp_path, text_file, "--resume", "--steps", 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1 and out == ""
    assert err.count("error: could not save") == 1 and "Traceback" not in err
    assert (tmp_path / "run.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def test_a_resumed_run_keeps_the_best_weights(tmp_path, text_file):
    assert train(tmp_path, text_file, "--steps", 2)[0] == 0
    best = tmp_path / "run_best.safetensors"
    save_checkpoint(read_checkpoint(best) | {"heldout": 0.5}, best)  # better than anything to come
    before = best.read_bytes()
    assert train(tmp_path, text_file, "--resume", "--steps", 4)[0] == 0
    assert best.read_bytes() == before


# ---- What is refused
def test_a_name_that_is_not_there_is_told_those_that_are(tmp_path):
    refused = run_script("06_generate.py", "--checkpoint", tmp_path / "shakespear.safetensors")
    assert_refused(refused, 1, "gpt.safetensors", "shakespeare.safetensors", "tamil.safetensors")


@pytest.mark.parametrize("name", ["run", "run.csv", "run.pt", "verse.txt"])
def test_a_checkpoint_is_named_safetensors(tmp_path, text_file, name):
    before = text_file.read_bytes()
    assert_refused(train(tmp_path, text_file, "--steps", 1, out=name), 1, ".safetensors")
    assert text_file.read_bytes() == before


def test_a_file_in_place_of_a_folder(tmp_path, text_file):
    assert_refused(train(tmp_path, text_file, "--steps", 1, out="verse.txt/run.safetensors"), 1, "verse.txt")


def test_what_a_resumed_run_may_change_and_what_not(tmp_path, text_file):
    out = tmp_path / "run.safetensors"
    assert train(tmp_path, text_file, "--steps", 1)[0] == 0
    moved, other, before = tmp_path / "moved.txt", tmp_path / "other.txt", out.read_bytes()
    other.write_text(text_file.read_text() + "!")
    text_file.rename(moved)
    for script in ("07_train_gpt.py", "08_train_tamil.py"):
        refused = train(tmp_path, text_file, "--resume", "--steps", 2, script=script)
        assert_refused(refused, 1, "of another kind", "'05_train.py'")
    for flags, *words in ((["--data", moved, "--seed", 5], "--seed 0, not 5"), ([], "cannot read", "verse.txt"),
                          (["--data", other], "another text", "other.txt")):  # fmt: skip
        assert_refused(train(tmp_path, text_file, "--resume", "--steps", 2, *flags), 1, *words)
        assert out.read_bytes() == before
    changed = ["--data", moved, "--seed", 0, "--dropout", 0.3, "--weight-decay", 0.2, "--preset", "auto"]
    changed += ["--dtype", "auto"]  # the run has made its choice
    code, _, err = train(tmp_path, text_file, "--resume", "--steps", 2, *changed)
    assert code == 0, err
    saved = read_checkpoint(out)
    assert saved["settings"]["data"] == str(moved) and saved["settings"]["weight_decay"] == 0.2
    assert saved["settings"]["dropout"] == saved["config"]["dropout"] == 0.3
    assert train(tmp_path, text_file, "--resume", "--steps", 3)[0] == 0  # it knows the new place now


def test_of_two_that_go_on_with_one_run_only_the_first_to_save_does(tmp_path, text_file):
    out = tmp_path / "run.safetensors"
    assert train(tmp_path, text_file, "--steps", 1)[0] == 0
    other = out.read_bytes()

    def write_too():
        other_file = tmp_path / "other"
        other_file.write_bytes(other)
        other_file.replace(out)

    with at_call(*STEP, 2, write_too):
        refused = train(tmp_path, text_file, "--resume", "--steps", 4)
    assert refused[0] == 1 and f"{out} was written by another run" in refused[2].splitlines()[-1]
    assert out.read_bytes() == other


@pytest.mark.parametrize("kind", ["another model", "no log"])
def test_a_file_beside_a_run_that_is_not_its_own_is_not_taken_for_it(tmp_path, text_file, kind):
    assert train(tmp_path, text_file, "--steps", 1)[0] == 0
    if kind == "no log":
        path, word = tmp_path / "run.csv", "is no log of a run"
        path.write_text("my,own\nnotes,1\n")
    else:
        path, word = tmp_path / "run_best.safetensors", "holds another model's weights"
        save_model(path, random_model(5, 16), "abcde", heldout=0.1)
    before = path.read_bytes()
    assert_refused(train(tmp_path, text_file, "--resume", "--steps", 2), 1, path.name, word)
    assert path.read_bytes() == before


def test_best_weights_are_no_name_for_a_run(tmp_path, text_file):
    refused = train(tmp_path, text_file, "--steps", 1, out="run_best.safetensors")
    assert_refused(refused, 1, "not in _best.safetensors")


def test_a_run_whose_files_could_not_be_read_does_not_begin(tmp_path, text_file):
    refused = train(tmp_path, text_file, "--steps", 1, out="run\udcff.safetensors")
    assert_refused(refused, 1, "is not UTF-8")
    many = tmp_path / "many.txt"
    many.write_text("".join(map(chr, [*range(0x100, 0xD800), *range(0xE000, 0x1FFFF)])) * 2, encoding="utf-8")
    code, out, err = train(tmp_path, text_file, "--steps", 1, "--data", many, out="many.safetensors")
    assert code == 1 and "different letters make a model of" in err.splitlines()[-1]
    assert not (tmp_path / "many.safetensors").exists()


HUGE = "1" + 30 * "0"


@pytest.mark.parametrize(
    "status, flag, value",
    [(2, "--steps", "0"), (2, "--steps", "many"), (2, "--minutes", "-1"), (2, "--minutes", "nan"), (2, "--batch", "0"),
     (2, "--lr", "-0.1"), (2, "--preset", "huge"), (2, "--seed", "-1"), (2, "--seed", str(2**64)),
     (2, "--device", "tpu"), (2, "--colour", "red"), (2, "--dtype", "int8"), (2, "--steps", HUGE),
     (2, "--minutes", "1e100"), (2, "--batch", HUGE), (2, "--lr", "1e100"), (2, "--dropout", "1e100"),
     (2, "--seed", HUGE), (1, "--data", ""), (1, "--data", "verse\x1b.txt"), (1, "--data", "verse\udcff.txt")],
)  # fmt: skip
def test_wrong_values_are_one_sentence(tmp_path, text_file, status, flag, value):
    assert_refused(run_script("05_train.py", "--out", tmp_path / "run.safetensors", flag, value), status, flag)
    assert [path.name for path in tmp_path.iterdir()] == ["verse.txt"]


@pytest.mark.parametrize("script", ["05_train.py", "07_train_gpt.py", "08_train_tamil.py"])
def test_nothing_is_no_file(script, small_checkpoint, gpt_checkpoint):
    assert_refused(run_script(script, "--evaluate", ""), 1, "there is no file")
    checkpoint = gpt_checkpoint if "gpt" in script else small_checkpoint
    assert_refused(run_script(script, "--evaluate", checkpoint, "--data", ""), 1, "name of the text file is empty")


@pytest.mark.parametrize(
    "content, word", [(b"", "empty"), (b"short", "characters"), (b"\xff\xfe", "UTF-8"), (None, "cannot read")]
)
def test_bad_texts_are_one_sentence(tmp_path, content, word):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert_refused(train(tmp_path, path), 1, word)
    assert not (tmp_path / "run.safetensors").exists()
