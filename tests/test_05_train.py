"""Lesson 5: training that can be interrupted, resumed and shared, and checkpoints that cannot be lost."""

import csv
import itertools
import math
import os
import pickle
import re
import signal
import socket
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module

import pytest
from conftest import VERSE, assert_refused, run_script, start

import tools
from tools import UserError

import torch
import torch.distributed as dist
from torch.nn import functional as F

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Two evaluations in a run, and the sample beside each in two passes: they cost as much as many steps. (Processes
    of their own do as ever.)"""
    write = diffusion.sample
    monkeypatch.setattr(tools, "EVALUATIONS", 2)
    monkeypatch.setattr(diffusion, "sample", lambda model, canvas, steps, **options: write(model, canvas, 2, **options))


def train(tmp_path, text_file, *arguments, out="run.pt", **options):
    """Runs 05_train.py on the small text, two windows in a step, or goes on with such a run."""
    shape = ["--preset", "tiny", "--batch", 2, "--data", text_file]
    given = [*([] if "--resume" in arguments else shape), *arguments]
    given += [] if {"--resume", "--dtype"} & set(arguments) else ["--dtype", "float32"]
    return run_script("05_train.py", *given, "--out", tmp_path / out, **options)


def load(path):
    return torch.load(path, weights_only=True)


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
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_runs(tmp_path, one, two):
    """Two runs left the same, but for the clock and their names."""
    whole, other = load(tmp_path / f"{one}.pt"), load(tmp_path / f"{two}.pt")
    assert whole.keys() == other.keys()
    for name in whole.keys() - {"seconds"}:
        assert same(whole[name], other[name]), name
    best = [load(tmp_path / f"{name}_best.pt") | {"seconds": 0} for name in (one, two)]
    assert same(*best)
    logs = [[row | {"seconds": 0} for row in rows(tmp_path / f"{name}.csv")] for name in (one, two)]
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


def wait_for(path, process):
    """Until the running process has written the file; fails when it ends without doing so."""
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


# ---- Runs of a very small model, by `train` itself
def train_here(tmp_path, steps=1, objective=training.DIFFUSION, text=VERSE * 5, saved=None, **changes):
    """Trains a model of one block on a text. Returns the weights that it ended with."""
    settings = tools.Settings(
        script="test", preset="tiny", batch=4, lr=0.025, dropout=0.0, weight_decay=0.0, seed=0, dtype="float32",
        limit=steps, unit="steps", data="", sha256="", out=tmp_path / "here.pt", device="cpu", compiles=False,
    )  # fmt: skip
    settings = replace(settings, **changes)
    tokenizer = tensors.Tokenizer(sorted(set(text)))
    config = transformer.Config(tokenizer.vocab_size, 16, 1, 2, 16, objective.causal, settings.dropout)
    tokens, windows = tensors.split_text(text, tokenizer, 16)
    draw = tensors.random_windows(tokens, 16, settings.batch)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        training.train(settings, objective, tokenizer, config, draw, windows, saved)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return load(settings.out)["model"] if settings.out.exists() else None


def test_learning_rate_warms_up_and_falls():
    assert training.get_lr(0, 0) == pytest.approx(1 / training.WARMUP_STEPS)
    assert training.get_lr(training.WARMUP_STEPS, 0) == 1
    assert training.get_lr(1000, 0.5) == pytest.approx((1 + training.FINAL_LR) / 2)
    assert training.get_lr(1000, 1) == pytest.approx(training.FINAL_LR)


def test_a_run_follows_the_learning_rate_with_adamw_at_its_own(tmp_path):
    """AdamW's first step moves each number by the learning rate, whatever the gradient."""
    weights = train_here(tmp_path, lr=0.5)
    first = 0.5 * training.get_lr(0, 0) * transformer.ADAMW_LR_RATIO
    assert weights["head.weight"].abs().max().item() == pytest.approx(first, rel=1e-3)  # it began at 0
    train_here(tmp_path, steps=30, lr=0.5)
    logged = [float(row["lr"]) for row in rows(tmp_path / "here.csv")]
    assert logged == pytest.approx([0.5 * training.get_lr(step, step / 30) for step in range(30)], abs=1e-5)


def test_muon_moves_by_the_learning_rate_too(tmp_path, monkeypatch):
    """Its step has singular values of about 1, times the learning rate; the first step has no gradient for it yet."""
    monkeypatch.setattr(training, "get_lr", lambda step, progress: [1, 0, 1][step])  # at the second step nothing moves
    before = train_here(tmp_path, steps=2, lr=0.01)
    after = train_here(tmp_path, steps=3, lr=0.01)
    name = "blocks.0.attention.output.weight"
    moved = torch.linalg.svdvals(after[name] - before[name]) / 0.01
    assert 0.5 < moved.max() < 1.3


def test_a_huge_gradient_is_cut_to_length_1(tmp_path, monkeypatch):
    entropy = diffusion.masked_cross_entropy
    monkeypatch.setattr(diffusion, "masked_cross_entropy", lambda *args: 1000 * entropy(*args))
    train_here(tmp_path)
    muon, adamw = load(tmp_path / "here.pt")["optimizers"]
    gradients = [kept["average"] / 0.05 for kept in muon.values()] + [kept["exp_avg"] / 0.1 for kept in adamw.values()]
    assert math.sqrt(sum(g.square().sum().item() for g in gradients)) == pytest.approx(1, rel=1e-3)


def test_each_process_drops_out_by_its_own_lot(tmp_path, monkeypatch):
    """As the first and as the second of two processes, one after the other: what dropout does is what torch.rand is."""
    drawn = {}
    for rank, steps in ((0, 2), (1, 2)):

        def prepare(tokens, V, generator, rank=rank):
            drawn.setdefault(rank, []).append(F.dropout(torch.ones(64), 0.5).tolist())
            return diffusion.hide_some(tokens, V, generator)

        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        monkeypatch.setattr(training, "join_processes", lambda device, rank=rank: (rank, 2, device))
        agree = training.agree
        if rank:  # no one measures here, so the clock of the first one is not there: stop by the steps
            monkeypatch.setattr(training, "agree", lambda number, device: agree(len(drawn.get(1, [])) / steps, device))
        train_here(tmp_path, steps, replace(training.DIFFUSION, prepare=prepare), dropout=0.5, batch=2)
    assert len(drawn[0]) == len(drawn[1]) == 2
    assert drawn[0][0] != drawn[1][0] and drawn[0][1] != drawn[1][1]


def test_what_is_measured_is_what_is_kept(tmp_path):
    """The best weights, rounded to bfloat16; here the middle of three measurements is the best."""
    figures, measured = iter([0.7, 0.3, 0.5]), []

    def heldout(model, windows):
        assert not model.training
        measured.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(figures)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools, "EVALUATIONS", 3)
        train_here(tmp_path, steps=6, objective=replace(training.DIFFUSION, heldout=heldout))
    for weights in measured:
        assert all(torch.equal(value, value.bfloat16().float()) for value in weights.values())
    best = load(tmp_path / "here_best.pt")
    assert (best["step"], best["heldout"]) == (4, 0.3)
    assert same(best["model"], {name: value.bfloat16() for name, value in measured[1].items()})
    assert load(tmp_path / "here.pt")["heldout"] == 0.5


def test_a_loss_that_is_no_number_is_not_saved(tmp_path):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="smaller --lr"):
        losses = iter([1.0, 1.0, math.nan])
        entropy = diffusion.masked_cross_entropy
        patch.setattr(diffusion, "masked_cross_entropy", lambda *args: next(losses) * entropy(*args))
        patch.setattr(diffusion, "bound", lambda model, part, generator: torch.ones(len(part)))
        train_here(tmp_path, steps=6)
    assert not (tmp_path / "here.pt").exists()


def test_batch_must_be_shared_out_evenly(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "join_processes", lambda device: (0, 2, device))
    with pytest.raises(UserError, match="evenly"):
        train_here(tmp_path, batch=3)


def test_dtype_is_the_one_that_is_given_or_else_the_faster(tmp_path, text_file, monkeypatch):
    """Seen in what the matrices of the model are multiplied in, and in the weights."""
    seen = []
    linear = F.linear
    note = lambda x, *args: seen.append(linear(x, *args)) or seen[-1]  # noqa: E731
    monkeypatch.setattr(F, "linear", lambda *args: note(*args) if torch.is_grad_enabled() else linear(*args))
    weights = {}
    for faster, slower in itertools.permutations(("float32", "bfloat16")):
        seconds = {getattr(torch, faster): 1.0, getattr(torch, slower): 2.0}
        monkeypatch.setattr(tools, "time_product", lambda width, dtype, seconds=seconds: seconds[dtype])
        for given, dtype in (("auto", faster), (slower, slower)):
            seen.clear()
            out = f"{faster}_{given}"
            code, _, err = train(tmp_path, text_file, "--steps", 2, "--dtype", given, out=f"{out}.pt")
            assert code == 0 and (f"{dtype}: here a matrix product" in err) == (given == "auto"), err
            assert {output.dtype for output in seen} == {getattr(torch, dtype)}
            assert load(tmp_path / f"{out}.pt")["settings"]["dtype"] == dtype
            weights[out] = load(tmp_path / f"{out}.pt")["model"]
    assert same(weights["float32_auto"], weights["bfloat16_float32"])
    assert not same(weights["float32_auto"], weights["bfloat16_auto"])


# ---- Whole runs
def test_a_whole_run_leaves_what_it_says(tmp_path, text_file):
    code, out, err = train(tmp_path, text_file, "--steps", 12)
    assert code == 0, err
    assert out.strip() == f"python 06_generate.py --checkpoint {tmp_path / 'run_best.pt'}"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.csv", "run.png", "run.pt", "run_best.pt", "verse.txt"]
    log = rows(tmp_path / "run.csv")
    assert [int(row["step"]) for row in log] == list(range(1, 13))
    assert [int(row["characters"]) for row in log] == [2 * 128 * step for step in range(1, 13)]
    assert float(log[-1]["loss"]) < float(log[0]["loss"])
    measured = [float(row["heldout"]) for row in log if row["heldout"]]
    assert len(measured) == tools.EVALUATIONS

    model, tokenizer, info = training.load_checkpoint(tmp_path / "run_best.pt")
    assert info["heldout"] == pytest.approx(min(measured), abs=1e-4)
    _, windows = tensors.split_text(text_file.read_text(), tokenizer, 128)
    assert training.heldout_bound(model, windows)[0] == pytest.approx(info["heldout"], abs=1e-6)
    assert all(value.dtype == torch.bfloat16 for value in load(tmp_path / "run_best.pt")["model"].values())
    code, out, err = run_script("05_train.py", "--evaluate", tmp_path / "run_best.pt", "--data", text_file)
    figure, error = map(float, re.search(r": bound (\S+) \+- (\S+) nats/character", out).groups())
    assert code == 0 and figure == pytest.approx(info["heldout"], abs=20 * error), err
    assert [round(x, 4) for x in training.heldout_bound(model, windows, draws=16)] == [figure, error]


def test_heldout_bound_is_repeatable_and_leaves_the_training_generator_alone(small_model):
    model, tokenizer = small_model
    windows = torch.randint(tokenizer.vocab_size, (70, 32))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = training.heldout_bound(model, windows, draws=3)
    assert first == training.heldout_bound(model, windows, draws=3)
    assert torch.equal(before, torch.get_rng_state())
    assert first[1] > 0
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
    saved = load(tmp_path / "run.pt")
    assert saved["seconds"] >= 0.6 and saved["step"] >= 1 and rows(tmp_path / "run.csv")[-1]["heldout"]


@pytest.mark.parametrize("number, dtype", [(signal.SIGTERM, "float32"), (signal.SIGINT, "bfloat16")])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, text_file, number, dtype):
    flags = ["--steps", 8, "--dtype", dtype, "--dropout", 0.2]
    assert train(tmp_path, text_file, *flags, out="whole.pt")[0] == 0
    with at_call(diffusion, "hide_some", 5, lambda: signal.raise_signal(number)):
        code, _, err = train(tmp_path, text_file, *flags)
    assert code == 0 and f"Go on with --resume --out {tmp_path / 'run.pt'}" in err, err
    assert load(tmp_path / "run.pt")["step"] == 5
    code, _, err = train(tmp_path, text_file, "--resume")
    assert code == 0 and "matrix product" not in err, err
    assert_same_runs(tmp_path, "whole", "run")


def killed():
    raise KeyboardInterrupt  # nothing in the run catches it, so that nothing is saved


@pytest.mark.parametrize("when", ["measuring", "after it"])
def test_a_run_killed_while_it_measures_measures_on_resume(tmp_path, text_file, when):
    assert train(tmp_path, text_file, "--steps", 4, out="whole.pt")[0] == 0
    kill = ("bound", 1) if when == "measuring" else ("hide_some", 3)
    with at_call(diffusion, *kill, killed):
        assert train(tmp_path, text_file, "--steps", 4)[0] == 130
    saved = load(tmp_path / "run.pt")
    assert saved["step"] == 2 and saved["due"]
    code, _, err = train(tmp_path, text_file, "--resume")
    assert code == 0, err
    assert [bool(row["heldout"]) for row in rows(tmp_path / "run.csv")] == [False, True, False, True]
    assert_same_runs(tmp_path, "whole", "run")


def test_a_signal_stops_a_process(tmp_path, text_file):
    flags = ["--data", text_file, "--preset", "tiny", "--batch", 2, "--steps", 400, "--out", "run.pt"]
    process = start("05_train.py", *flags, cwd=tmp_path)
    wait_for(tmp_path / "run.csv", process)  # its second step
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "Stopping after this step" in err and "Go on with --resume" in err, err
    saved = load(tmp_path / "run.pt")["step"]
    assert 0 < saved < 400
    assert train(tmp_path, text_file, "--resume", "--steps", saved + 1)[0] == 0


def test_killed_outright_it_goes_on_from_the_last_save(tmp_path, text_file):
    flags = ["--data", text_file, "--preset", "tiny", "--batch", 2, "--steps", 80, "--out", tmp_path / "run.pt"]
    process = start("05_train.py", *flags)
    wait_for(tmp_path / "run.pt", process)
    process.kill()
    process.communicate()
    saved = load(tmp_path / "run.pt")["step"]
    code, _, err = train(tmp_path, text_file, "--resume", "--steps", saved + 2)
    assert code == 0, err
    assert load(tmp_path / "run.pt")["step"] == saved + 2


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_follow_one(tmp_path, text_file):
    """Started as torchrun does, by what it tells them in the environment."""
    flags = ["--data", text_file, "--preset", "tiny", "--batch", 4, "--steps", 3, "--device", "cpu"]
    flags += ["--dtype", "float32"]  # bfloat16 rounds half batches otherwise, and Muon magnifies what is small
    assert run_script("05_train.py", *flags, "--out", tmp_path / "one.pt")[0] == 0
    env = dict(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), OMP_NUM_THREADS="1")
    processes = [
        start("05_train.py", *flags, "--out", tmp_path / "two.pt", env=env | dict(RANK=rank, LOCAL_RANK=rank))
        for rank in "01"
    ]
    (out, err), (out_of_second, err_of_second) = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], err + err_of_second
    assert (out, out_of_second) == (f"python 06_generate.py --checkpoint {tmp_path / 'two_best.pt'}\n", "")
    one, two = load(tmp_path / "one.pt"), load(tmp_path / "two.pt")
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
    before = (tmp_path / "run.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        code, out, err = train(tmp_path, text_file, "--resume", "--steps", 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1 and out == ""
    assert err.count("error: could not save") == 1 and "Traceback" not in err
    assert (tmp_path / "run.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


# ---- What is refused
class Bomb:
    """Pickled, this would create a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["missing", "truncated", "text", "foreign", "code", "weights", "list"])
def test_bad_checkpoints_are_refused_and_untouched(tmp_path, text_file, small_checkpoint, kind):
    path = tmp_path / "run.pt"
    if kind == "truncated":
        path.write_bytes(small_checkpoint.read_bytes()[:-500])
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "foreign":
        torch.save({"model": {"layer.weight": torch.zeros(3)}, "config": {}, "optimizers": []}, path)
    elif kind == "code":
        torch.save({"model": {}, "bomb": Bomb(tmp_path / "exploded")}, path)
    elif kind == "weights":
        path.write_bytes(small_checkpoint.read_bytes())
    elif kind == "list":
        torch.save([1, 2, 3], path)
    before = path.read_bytes() if path.exists() else None
    assert_refused(train(tmp_path, text_file, "--resume"), 1, str(path))
    assert (path.read_bytes() if path.exists() else None) == before
    assert not (tmp_path / "exploded").exists()
    if kind != "weights":
        assert_refused(run_script("06_generate.py", "--checkpoint", path), 1, str(path))
        assert not (tmp_path / "exploded").exists()


def test_plain_pickle_is_not_executed(tmp_path):
    path = tmp_path / "plain.pt"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(UserError, match="not run"):
        training.load_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


def test_a_name_that_is_not_there_is_told_those_that_are(tmp_path):
    refused = run_script("06_generate.py", "--checkpoint", tmp_path / "shakespear.pt")
    assert_refused(refused, 1, "gpt.pt", "shakespeare.pt", "tamil.pt")


@pytest.mark.parametrize(
    "changes",
    [dict(context=0), dict(context=1.5), dict(context=math.nan), dict(context="128"), dict(n_layers=10**9),
     dict(n_layers=2), dict(n_heads=64), dict(n_heads=3), dict(dim=32), dict(causal=None), dict(dropout=math.nan),
     dict(vocab_size=10**7), dict(vocab_size=5)],
    ids=str,
)  # fmt: skip
def test_a_config_that_is_wrong_or_does_not_fit_is_one_sentence(small_checkpoint, changes):
    contents = load(small_checkpoint)
    contents["config"] |= changes
    torch.save(contents, small_checkpoint)
    with pytest.raises(UserError, match=str(small_checkpoint)):
        training.load_checkpoint(small_checkpoint)


@pytest.mark.parametrize("part", ["optimizers", "generators", "model"])
def test_a_run_whose_parts_do_not_fit_is_refused_and_untouched(tmp_path, text_file, part):
    assert train(tmp_path, text_file, "--steps", 1)[0] == 0
    contents = load(tmp_path / "run.pt")
    wrong = dict(optimizers=contents["optimizers"][:1], generators={}, model={"head.weight": torch.zeros(3)})
    torch.save(contents | {part: wrong[part]}, tmp_path / "run.pt")
    before = (tmp_path / "run.pt").read_bytes()
    assert_refused(train(tmp_path, text_file, "--resume", "--steps", 3), 1, "run.pt")
    assert (tmp_path / "run.pt").read_bytes() == before


def test_an_existing_run_is_not_overwritten(tmp_path, text_file):
    (tmp_path / "run.pt").write_bytes(b"precious")
    assert_refused(train(tmp_path, text_file, "--steps", 1), 1, "--resume", "--out")
    assert (tmp_path / "run.pt").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["run", "run.csv", "verse.txt"])
def test_a_checkpoint_is_named_pt(tmp_path, text_file, name):
    before = text_file.read_bytes()
    assert_refused(train(tmp_path, text_file, "--steps", 1, out=name), 1, ".pt")
    assert text_file.read_bytes() == before


def test_a_file_in_place_of_a_folder(tmp_path, text_file):
    code, _, err = train(tmp_path, text_file, "--steps", 1, out="verse.txt/run.pt")
    assert code == 1 and "Traceback" not in err


def test_weight_decay_takes_its_share_of_the_hidden_matrices_and_of_nothing_else(tmp_path):
    kept = train_here(tmp_path / "kept", lr=0.01)
    faded = train_here(tmp_path / "faded", lr=0.01, weight_decay=0.5)
    torch.manual_seed(0)  # as the run has it
    began = transformer.Transformer(transformer.Config(len(set(VERSE)), 16, 1, 2, 16)).state_dict()
    for name, weights in kept.items():
        share = 0.01 * training.get_lr(0, 0) * 0.5 if name.startswith("blocks") and weights.ndim == 2 else 0
        torch.testing.assert_close(faded[name], weights - share * began[name], atol=1e-7, rtol=0)


def test_resume_refuses_another_seed_but_takes_another_dropout_and_weight_decay(tmp_path, text_file):
    assert train(tmp_path, text_file, "--steps", 1)[0] == 0
    assert_refused(train(tmp_path, text_file, "--resume", "--seed", 5), 1, "--seed 0")
    code, _, err = train(tmp_path, text_file, "--resume", "--steps", 2, "--dropout", 0.3, "--weight-decay", 0.2)
    assert code == 0, err
    saved = load(tmp_path / "run.pt")
    assert saved["settings"]["weight_decay"] == 0.2
    assert saved["settings"]["dropout"] == saved["config"]["dropout"] == 0.3


def test_a_text_that_has_moved_goes_on_and_another_text_does_not(tmp_path, text_file):
    assert train(tmp_path, text_file, "--steps", 1)[0] == 0
    moved, other = tmp_path / "moved.txt", tmp_path / "other.txt"
    other.write_text(text_file.read_text() + "!")
    text_file.rename(moved)
    before = (tmp_path / "run.pt").read_bytes()
    assert_refused(train(tmp_path, text_file, "--resume", "--steps", 2), 1, "cannot read", "verse.txt")
    assert_refused(
        train(tmp_path, text_file, "--resume", "--steps", 2, "--data", other), 1, "another text", "other.txt"
    )
    assert (tmp_path / "run.pt").read_bytes() == before
    code, _, err = train(tmp_path, text_file, "--resume", "--steps", 2, "--data", moved)
    assert code == 0, err
    assert load(tmp_path / "run.pt")["settings"]["data"] == str(moved)
    assert train(tmp_path, text_file, "--resume", "--steps", 3)[0] == 0  # it knows the new place now


@pytest.mark.parametrize("script", ["07_train_gpt.py", "08_train_tamil.py"])
def test_another_lessons_script_refuses_the_run(tmp_path, text_file, script):
    assert train(tmp_path, text_file, "--steps", 1)[0] == 0
    before = (tmp_path / "run.pt").read_bytes()
    refused = run_script(script, "--resume", "--steps", 2, "--out", tmp_path / "run.pt")
    assert_refused(refused, 1, "of another kind", "'05_train.py'")
    assert (tmp_path / "run.pt").read_bytes() == before


def test_a_resumed_run_keeps_the_best_weights(tmp_path, text_file):
    assert train(tmp_path, text_file, "--steps", 2)[0] == 0
    best = load(tmp_path / "run_best.pt") | {"heldout": 0.5}  # better than anything to come
    torch.save(best, tmp_path / "run_best.pt")
    assert train(tmp_path, text_file, "--resume", "--steps", 4)[0] == 0
    assert load(tmp_path / "run_best.pt")["step"] == best["step"]


HUGE = "1" + 30 * "0"


@pytest.mark.parametrize(
    "flag, value",
    [("--steps", "0"), ("--steps", "many"), ("--minutes", "-1"), ("--minutes", "nan"), ("--batch", "0"),
     ("--lr", "-0.1"), ("--preset", "huge"), ("--seed", "-1"), ("--seed", str(2**64)), ("--device", "tpu"),
     ("--colour", "red"), ("--dtype", "int8"), ("--steps", HUGE), ("--minutes", "1e100"), ("--batch", HUGE),
     ("--lr", "1e100"), ("--dropout", "1e100"), ("--seed", HUGE)],
)  # fmt: skip
def test_wrong_values_are_one_sentence(tmp_path, text_file, flag, value):
    assert_refused(run_script("05_train.py", "--out", tmp_path / "run.pt", flag, value), 2, flag)


TEXTS = [(b"", "empty"), (b"short", "characters"), (b"\xff\xfe", "UTF-8"), (None, "cannot read")]


@pytest.mark.parametrize("content, word", TEXTS)
def test_bad_texts_are_one_sentence(tmp_path, content, word):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    flags = ["--preset", "tiny", "--data", path, "--out", tmp_path / "run.pt"]
    assert_refused(run_script("05_train.py", *flags), 1, word)
    assert not (tmp_path / "run.pt").exists()
