"""Hostile and damaged checkpoints: one sentence each, nothing run, nothing changed, little memory, little time."""

import hashlib
import os
import random
import time
from importlib import import_module

import hostile
import pytest
from conftest import ROOT, VERSE, assert_refused, random_model, run_script, save_model

from tools import older_checkpoints as older
from tools import training_run
from tools.checkpoints import CONTROL, named_tensors, read_checkpoint
from tools.command_line import UserError

import torch

resource = pytest.importorskip("resource")  # not on Windows
transformer = import_module("03_transformer")
training = import_module("05_train")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Good files: model and gpt for generating, run the state of a run of one step, older in the older format."""
    folder, units = tmp_path_factory.mktemp("good"), sorted(set(VERSE))
    (folder / "verse.txt").write_text(VERSE * 60, encoding="utf-8")
    run, former = folder / "run.safetensors", folder / "older.pt"
    model = older.OlderTransformer(transformer.Config(5, 16, 2, 2, 16), 6)
    shape = dict(vocab_size=5, hidden=16, n_layers=2, n_heads=2, seq_len=16)
    torch.save(dict(model=model.state_dict(), step=3, optimizer={}, **shape), former)
    progress = dict(characters=9, seconds=0.1234567890123, heldout=2.5)
    gpt = save_model(folder / "gpt.safetensors", random_model(len(units), 32, causal=True), units, **progress)
    model = save_model(folder / "model.safetensors", random_model(len(units), 32), units, **progress)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "EVALUATIONS", 1)
        patch.setitem(transformer.PRESETS, "tiny", dict(context=16, n_layers=2, n_heads=2, dim=16))
        flags = ["--preset", "tiny", "--batch", 2, "--steps", 1, "--dtype", "float32", "--data", folder / "verse.txt"]
        code, _, err = run_script("05_train.py", *flags, "--out", run)
        assert code == 0, err
        yield dict(model=model, gpt=gpt, run=run, older=former)


def state_of(folder):
    """{name: its kind, and a checksum of its bytes} of a folder."""

    def one(path):
        ordinary = path.is_file() and not path.is_symlink() and path.stat().st_size < 10**9
        return os.lstat(path).st_mode, ordinary and hashlib.sha256(path.read_bytes()).hexdigest()

    return {path.name: one(path) for path in folder.iterdir()}


def peak():
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if os.uname().sysname == "Darwin" else 2**10)


def faults_of(kinds, path, use=training.load_checkpoint):
    """What goes wrong with some {name: make(path)} when they are used: each is to be refused by one sentence that names
    the file or its folder, without a change in the folder, without much memory or time."""
    faults = []
    for name, make in kinds.items():
        for each in path.parent.iterdir():
            each.rmdir() if each.is_dir() and not each.is_symlink() else each.unlink()
        make(path)
        before, memory, began = state_of(path.parent), peak(), time.monotonic()
        try:
            faults.append((name, "taken", str(use(path))[:200]))
        except UserError as refusal:
            sentence = str(refusal)
            named = any(words in sentence for words in (str(path.parent), "the text file", "save the text"))
            if not named or len(sentence.splitlines()) > 1 or CONTROL.search(sentence):
                faults.append((name, sentence[:300]))
        spent = time.monotonic() - began, peak() - memory
        if spent[0] > 30 or spent[1] > 700 or state_of(path.parent) != before:
            faults.append((name, "is slow, or large, or changes a file", spent))
    return faults


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a", "a.bin", "a.pt.txt"])
def test_files_of_other_shapes_are_refused(good, tmp_path, name):
    other = good["older" if name == "a.safetensors" else "model"].read_bytes()
    kinds = hostile.FILES | {"of the other format": lambda path: path.write_bytes(other)}
    assert faults_of(kinds | (hostile.SAFETENSORS if name == "a.safetensors" else {}), tmp_path / name) == []
    hostile.FILES["large"](tmp_path / "large.pt")
    with pytest.raises(UserError, match="larger than 536,870,912 bytes"):
        read_checkpoint(tmp_path / "large.pt")


@pytest.mark.parametrize("kind", ["model", "gpt"])
@pytest.mark.parametrize("format", ["safetensors", "pt"])
def test_models_with_wrong_parts_are_refused(good, tmp_path, kind, format):
    """As .pt, they are what the project's own checkpoints were before."""
    contents, path = read_checkpoint(good[kind]), tmp_path / f"a.{format}"
    assert faults_of(hostile.changed(contents, hostile.MODEL), path) == []
    hostile.changed(contents, dict(good=lambda contents: None))["good"](path)
    training.load_checkpoint(path)


@pytest.mark.parametrize("kind", ["model", "gpt", "run", "tamil", "paths"])
def test_no_changed_bit_and_no_cut_is_taken(good, tmp_path, kind):
    """Of 300 files. (A bit in the header may leave the meaning as it is: \\u0b95 or \\u0B95.)"""
    source = good.get(kind, ROOT / "checkpoints" / f"{kind}.safetensors")
    data, chance, whole, path = (
        source.read_bytes(),
        random.Random(0),
        read_checkpoint(source),
        tmp_path / "a.safetensors",
    )
    header = 8 + int.from_bytes(data[:8], "little")
    taken = []
    for number in range(300):
        spoiled, size = bytearray(data), header if number % 2 else len(data)
        spoiled[chance.randrange(size)] ^= 1 << chance.randrange(8)
        path.write_bytes(data[: chance.randrange(size)] if number % 10 > 7 else spoiled)
        try:
            back = read_checkpoint(path)
        except UserError:
            continue
        tensors, plain = zip(
            *((named_tensors(each), dict(each, model=0, optimizers=0, generators=0)) for each in (whole, back))
        )
        same = tensors[0].keys() == tensors[1].keys() and all(
            torch.equal(tensors[1][n], w) for n, w in tensors[0].items()
        )
        taken += [] if same and plain[0] == plain[1] else [number]
    assert taken == []


def test_bad_pt_files_are_refused_and_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "folder" / "a.pt"
    path.parent.mkdir()
    assert faults_of(hostile.PT, path) == []
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
    reasons = {"a former training state": "begin a new run", "compressed": "compressed",
               "overlapping": "overlap", "a tensor of 10^9 from 4 bytes": "larger than their data"}  # fmt: skip
    for name, words in reasons.items():
        hostile.PT[name](path)
        with pytest.raises(UserError, match=words):
            read_checkpoint(path)


def test_older_models_with_wrong_parts_are_refused(good, tmp_path):
    def beside(vocabulary, make=lambda path: path.write_bytes(good["older"].read_bytes())):
        def both(path):
            make(path)
            file = path.with_name("vocab.json")
            vocabulary(file) if callable(vocabulary) else file.write_text(vocabulary)

        return both

    kinds = hostile.changed(read_checkpoint(good["older"]), hostile.OLDER)
    kinds = {name: beside(hostile.listing(), make) for name, make in kinds.items()}
    kinds |= {f"vocab.json {content[:30]}": beside(content) for content in hostile.VOCABULARIES}
    kinds |= {
        f"vocab.json {name}": beside(hostile.FILES[name]) for name in ("random", "a folder", "a pipe", "a device")
    }
    assert faults_of(kinds, tmp_path / "a.pt") == []
    beside(hostile.listing())(tmp_path / "good.pt")
    (tmp_path / "vocab.json").unlink()


def resume(path):
    """Goes on with a run for a step. Raises UserError as the script ends with it."""
    code, out, err = run_script("05_train.py", "--resume", "--steps", 2, "--out", path)
    if (code, out) == (1, "") and err.startswith("error: "):
        raise UserError(err.removeprefix("error: ").strip())
    return code, out, err


def test_runs_with_wrong_parts_are_refused_and_left_alone(good, tmp_path):
    contents, path = read_checkpoint(good["run"]), tmp_path / "a.safetensors"
    kinds = hostile.changed(contents, hostile.RUN)
    kinds |= {"weights alone": lambda path: path.write_bytes(good["model"].read_bytes())}

    def beside(best):
        return lambda path: path.write_bytes(good["run"].read_bytes()) and best(path.with_name("a_best.safetensors"))

    bests = [hostile.FILES[name] for name in ("one byte", "a folder", "a device")]
    wrong = hostile.changed(read_checkpoint(good["model"]), hostile.wrong(dict(heldout=[hostile.NAN, "x", [1]])))
    kinds |= {f"the best weights: {number}": beside(make) for number, make in enumerate([*bests, *wrong.values()])}
    assert faults_of(kinds, path, resume) == []
    path.with_name("a_best.safetensors").unlink()
    for harmless in ({}, dict(due=True, losses=[])):
        hostile.forge(path, contents, harmless)
        assert resume(path)[0] == 0


OTHERS = {
    "05_train.py": ("--evaluate",), "06_generate.py": ("--len", 8, "--checkpoint"), "10_compare.py": ("--dllm",),
    "07_train_gpt.py": ("--generate", "--len", 8, "--checkpoint"), "09_generate_tamil.py": ("--len", 8, "--checkpoint"),
    "11_fill_blanks.py": ("a_b", "--checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("script", OTHERS)
def test_every_script_refuses_them(script, tmp_path, monkeypatch, request):
    if script in ("05_train.py", "10_compare.py"):
        request.getfixturevalue("real_text")
    monkeypatch.chdir(tmp_path)
    for name, make in dict(
        pt=hostile.PT["an archive with code"], safetensors=hostile.SAFETENSORS["metadata {}"]
    ).items():
        make(tmp_path / f"evil.{name}")
        assert_refused(run_script(script, *OTHERS[script], tmp_path / f"evil.{name}"), 1, f"evil.{name}")
    assert not (tmp_path / hostile.MARKER).exists()
