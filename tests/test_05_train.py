"""Lesson 5: training that can be interrupted, resumed and shared, and checkpoints that cannot be lost."""

import csv
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from importlib import import_module

import pytest
import torch
from conftest import ROOT, assert_refused, environment, run_script, start

lesson1 = import_module("01_tensors")
training = import_module("05_train")
transformer = import_module("03_transformer")


def train(tmp_path, text_file, *arguments, out="run.pt", **options):
    """Runs 05_train.py on the small text, two windows in a step."""
    given = ["--data", text_file, "--preset", "small", "--batch", 2, "--out", tmp_path / out, *arguments]
    return run_script("05_train.py", *given, **options)


def load(path):
    return torch.load(path, weights_only=True)


def same(a, b):
    """Whether two nested structures of tensors and plain values are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def wait_for(path, process):
    """Until the running process has written the file; fails when it ends without doing so."""
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def test_learning_rate_warms_up_and_falls():
    assert transformer.get_lr(0, 0) == pytest.approx(1 / transformer.WARMUP_STEPS)
    assert transformer.get_lr(transformer.WARMUP_STEPS, 0) == 1
    assert transformer.get_lr(1000, 0.5) == pytest.approx((1 + transformer.FINAL_LR) / 2)
    assert transformer.get_lr(1000, 1) == pytest.approx(transformer.FINAL_LR)


def test_split_is_ninety_to_ten_without_overlap():
    text = "".join(chr(0x4E00 + i) for i in range(1000))
    tokenizer = lesson1.Tokenizer(sorted(set(text)))
    tokens, windows = lesson1.split_text(text, tokenizer, context=30)
    assert tokenizer.decode(tokens) == text[:900]
    assert tokenizer.decode(windows.flatten()) == text[900:990]
    assert windows.shape == (3, 30)


def test_a_whole_run_leaves_what_it_says(tmp_path, text_file):
    code, out, err = train(tmp_path, text_file, "--steps", 12)
    assert code == 0, err
    assert out.strip() == f"python 06_generate.py --checkpoint {tmp_path / 'run_best.pt'}"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.csv", "run.png", "run.pt", "run_best.pt", "verse.txt"]
    rows = list(csv.DictReader(open(tmp_path / "run.csv")))
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert [int(row["characters"]) for row in rows] == [2 * 128 * step for step in range(1, 13)]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    measured = [float(row["heldout"]) for row in rows if row["heldout"]]
    assert len(measured) == training.EVALUATIONS

    model, tokenizer, info = training.load_checkpoint(tmp_path / "run_best.pt")
    assert info["heldout"] == pytest.approx(min(measured), abs=1e-4)
    _, windows = lesson1.split_text(text_file.read_text(), tokenizer, 128)
    assert training.diffusion.heldout_bound(model, windows)[0] == pytest.approx(info["heldout"], abs=1e-4)
    assert all(value.dtype == torch.bfloat16 for value in load(tmp_path / "run_best.pt")["model"].values())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, text_file, number):
    assert train(tmp_path, text_file, "--steps", 20, out="whole.pt")[0] == 0
    process = start("05_train.py", "--data", text_file, "--preset", "small", "--batch", 2, "--steps", 20, "--out", tmp_path / "run.pt")
    wait_for(tmp_path / "run.csv", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "Go on with --resume" in err, err
    stopped_at = load(tmp_path / "run.pt")["step"]
    assert 0 < stopped_at < 20
    assert train(tmp_path, text_file, "--resume")[0] == 0
    whole, resumed = load(tmp_path / "whole.pt"), load(tmp_path / "run.pt")
    for name in ("model", "optimizers", "generators", "step", "heldout", "config", "units"):
        assert same(whole[name], resumed[name]), name
    assert same(load(tmp_path / "whole_best.pt") | {"seconds": 0}, load(tmp_path / "run_best.pt") | {"seconds": 0})
    steps = [[row["step"] for row in csv.DictReader(open(tmp_path / f"{name}.csv"))] for name in ("whole", "run")]
    assert steps[0] == steps[1]


def test_killed_outright_it_goes_on_from_the_last_save(tmp_path, text_file):
    process = start("05_train.py", "--data", text_file, "--preset", "small", "--batch", 2, "--steps", 80, "--out", tmp_path / "run.pt")
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
    flags = ["--data", text_file, "--preset", "small", "--batch", 4, "--steps", 5, "--device", "cpu"]
    assert train(tmp_path, text_file, *flags[4:], out="one.pt")[0] == 0
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    command = [sys.executable, *launch, ROOT / "05_train.py", *flags, "--out", tmp_path / "two.pt"]
    done = subprocess.run([str(word) for word in command], env=environment(OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = load(tmp_path / "one.pt"), load(tmp_path / "two.pt")
    assert two["step"] == 5
    torch.manual_seed(0)
    start = training.transformer.Transformer(training.transformer.Config(**one["config"])).state_dict()
    exact = training.transformer.native_dtype(torch.device("cpu")) == torch.float32
    tolerance = 0.01 if exact else 0.3  # bfloat16 rounds half batches otherwise, and Muon magnifies what is small
    for name, value in one["model"].items():
        moved = (value - start[name]).norm()
        assert moved > 0 and (two["model"][name] - value).norm() < tolerance * moved, name
    assert torch.equal(one["generators"]["batches"], two["generators"]["batches"])


def test_full_disk_is_one_sentence_and_keeps_the_last_save(tmp_path, text_file):
    resource = pytest.importorskip("resource")  # not on Windows
    assert train(tmp_path, text_file, "--steps", 2)[0] == 0
    before = (tmp_path / "run.pt").read_bytes()
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))  # noqa: E731
    code, out, err = train(tmp_path, text_file, "--resume", "--steps", 4, preexec_fn=limit)
    assert code == 1 and out == ""
    assert err.strip().splitlines()[-1].startswith("error: could not save") and "Traceback" not in err
    assert (tmp_path / "run.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


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
    with pytest.raises(lesson1.UserError, match="not run"):
        training.load_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


def test_an_existing_run_is_not_overwritten(tmp_path, text_file):
    (tmp_path / "run.pt").write_bytes(b"precious")
    assert_refused(train(tmp_path, text_file, "--steps", 1), 1, "--resume", "--out")
    assert (tmp_path / "run.pt").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["run", "run.csv", "verse.txt"])
def test_a_checkpoint_is_named_pt(tmp_path, text_file, name):
    before = text_file.read_bytes()
    assert_refused(train(tmp_path, text_file, "--steps", 1, out=name), 1, ".pt")
    assert text_file.read_bytes() == before


def test_a_loss_that_explodes_is_not_saved(tmp_path, text_file):
    code, out, err = train(tmp_path, text_file, "--steps", 5, "--lr", 1e38)
    assert code == 1 and out == "" and "smaller --lr" in err.splitlines()[-1], err


def test_a_file_in_place_of_a_folder(tmp_path, text_file):
    code, _, err = train(tmp_path, text_file, "--steps", 1, out="verse.txt/run.pt")
    assert code == 1 and "Traceback" not in err


def test_resume_refuses_another_seed_but_takes_another_dropout(tmp_path, text_file):
    assert train(tmp_path, text_file, "--steps", 1)[0] == 0
    assert_refused(train(tmp_path, text_file, "--resume", "--seed", 5), 1, "--seed 0")
    code, _, err = train(tmp_path, text_file, "--resume", "--steps", 2, "--dropout", 0.3)
    assert code == 0, err
    saved = load(tmp_path / "run.pt")
    assert saved["settings"]["dropout"] == saved["config"]["dropout"] == 0.3


def test_a_resumed_run_keeps_the_best_weights(tmp_path, text_file):
    assert train(tmp_path, text_file, "--steps", 8)[0] == 0
    best = load(tmp_path / "run_best.pt") | {"heldout": 0.5}  # better than anything to come
    torch.save(best, tmp_path / "run_best.pt")
    assert train(tmp_path, text_file, "--resume", "--steps", 10)[0] == 0
    assert load(tmp_path / "run_best.pt")["step"] == best["step"]


@pytest.mark.parametrize(
    "flag, value",
    [("--steps", "0"), ("--steps", "many"), ("--minutes", "-1"), ("--minutes", "nan"), ("--batch", "0"), ("--lr", "-0.1"),
     ("--preset", "huge"), ("--seed", "-1"), ("--seed", str(2**64)), ("--device", "tpu"), ("--colour", "red")],
)  # fmt: skip
def test_wrong_values_are_one_sentence(tmp_path, text_file, flag, value):
    assert_refused(run_script("05_train.py", "--out", tmp_path / "run.pt", flag, value), 2, flag)


@pytest.mark.parametrize("content, word", [(b"", "empty"), (b"short", "characters"), (b"\xff\xfe", "UTF-8"), (None, "cannot read")])
def test_bad_texts_are_one_sentence(tmp_path, content, word):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert_refused(run_script("05_train.py", "--preset", "small", "--data", path, "--out", tmp_path / "run.pt"), 1, word)
    assert not (tmp_path / "run.pt").exists()


def test_batch_must_be_shared_out_evenly(monkeypatch, tmp_path):
    from argparse import Namespace

    monkeypatch.setattr(training.transformer, "join_processes", lambda device: (0, 2, device))
    with pytest.raises(lesson1.UserError, match="evenly"):
        training.train(Namespace(device="cpu", batch=3), None, None, None, None, None)
