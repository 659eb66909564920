"""benchmarks/tamil.py: code points against letters, and words found again."""

import re
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
from conftest import ROOT, assert_refused, environment, random_model, run_script, seeded
from test_08_train_tamil import COUPLETS, verse  # noqa: F401
from test_09_generate_tamil import asked, save_tamil, settle, tamil_checkpoint  # noqa: F401

from tools import pictures
from tools.command_line import UserError

import torch
from torch.nn import functional as F

tensors = import_module("01_tensors")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
tamil_training = import_module("08_train_tamil")
tamil_generation = import_module("09_generate_tamil")
benchmark = import_module("benchmarks.tamil")

SCRIPT = "benchmarks/tamil.py"


@pytest.fixture
def letters():
    """The tokenizer of Tamil letters."""
    return tensors.Tokenizer(tamil_training.make_units("", "letters"))


def test_every_third_word_of_a_couplet(letters):
    ids = letters.encode(COUPLETS[0])
    words = [letters.decode(ids[start:end]) for start, end in benchmark.third_words(letters, COUPLETS[0])]
    assert words == ["எழுத்தெல்லாம்", "முதற்றே"]


class Reader:
    """A model that knows the couplets, which differ in length; of the first one it takes the token `misread` for
    another."""

    def __init__(self, tokenizer, couplets, misread=None):
        self.config = SimpleNamespace(vocab_size=tokenizer.vocab_size, context=128)
        self.head, self.seen = SimpleNamespace(weight=torch.zeros(1)), []
        rows = [torch.tensor(tokenizer.encode(couplet)) for couplet in couplets]
        if misread is not None:
            rows[0][misread] += 1
        self.known = {len(row): row for row in rows}

    def __call__(self, tokens):
        self.seen.append(tokens.clone())
        row = self.known[tokens.shape[1]]  # [L]
        return 50.0 * F.one_hot(row, self.config.vocab_size).float().expand(len(tokens), -1, -1)  # [B, L, V]


def test_words_are_hidden_and_found_again(letters):
    couplets, sampling_for = [COUPLETS[0], COUPLETS[1], COUPLETS[0]], settle(1.0, steps=2)
    reader, generator = Reader(letters, COUPLETS), seeded()
    found = benchmark.find_words(reader, letters, couplets, sampling_for, generator)
    assert found.tolist() == [1.0] * 6 and len(reader.seen) == 2 * 2  # two lengths, two passes each
    for tokens in (reader.seen[0], reader.seen[2]):  # in the first pass, those words are masked and nothing else
        for row in tokens:
            couplet = COUPLETS[0] if len(row) == len(letters.encode(COUPLETS[0])) else COUPLETS[1]
            hidden = {i for span in benchmark.third_words(letters, couplet) for i in range(*span)}
            assert set((row == letters.vocab_size).nonzero().flatten().tolist()) == hidden
    reader = Reader(letters, COUPLETS, benchmark.third_words(letters, COUPLETS[0])[1][0])  # in its second hidden word
    found = benchmark.find_words(reader, letters, couplets, sampling_for, generator)
    assert found.tolist() == [1, 0, 1, 0, 1, 1]  # those of one length come first
    with pytest.raises(UserError, match="nothing to hide"):
        benchmark.find_words(reader, letters, ["அகர\nஆதி"], sampling_for, generator)


def test_words_in_every_order_and_number_of_passes(tamil_checkpoint, verse, asked, monkeypatch):  # noqa: F811
    monkeypatch.setattr(benchmark, "WORD_PASSES", (1, 2))
    model, tokenizer, _ = training.load_checkpoint(tamil_checkpoint)
    _, _, real = tamil_generation.read_couplets(tokenizer, verse)
    benchmark.print_found_words(model, tokenizer, real, settle(0.3, top_k=9), seeded())
    seen = {(call["order"], call["steps"], call["temperature"], call["top_k"]) for call in asked}
    assert seen == {(order, steps, 0.3, 9) for order in diffusion.ORDERS for steps in (1, 2)}


def test_code_points_come_out_ill_formed_and_letters_do_not(
    tamil_checkpoint, verse, tmp_path, monkeypatch, capsys, asked  # noqa: F811
):  # fmt: skip
    units = tamil_training.make_units("", "codepoints")
    code_points = random_model(len(units), 256)
    torch.nn.init.zeros_(code_points.head.weight)  # signs and letters are equally likely
    writers = {
        "letters": training.load_checkpoint(tamil_checkpoint)[:2],
        "code points": (code_points, tensors.Tokenizer(units)),
    }
    monkeypatch.setattr(pictures, "ROOT", tmp_path)
    monkeypatch.setattr(benchmark, "PICTURE_PASSES", (1, 4))
    _, known, real = tamil_generation.read_couplets(writers["letters"][1], verse)
    benchmark.compare_code_points(writers, known, real, 50, settle(1.0, order="certainty"), seeded())
    out = capsys.readouterr().out
    assert "letters: ill-formed letters 0.0% in 1, 0.0% in 4 passes" in out
    assert float(out.split("code points: ill-formed letters ")[1].split("%")[0]) > 10  # signs and letters drawn alike
    bits = {name: tamil_training.bits_per_couplet(*writer, real).mean() for name, writer in writers.items()}
    gain = bits["code points"] - bits["letters"]
    assert f"letters save {gain:.1f} +- " in out and f"letters: bound {bits['letters']:.1f} +- " in out
    assert {(call["order"], call["steps"]) for call in asked} == {("certainty", 1), ("certainty", 4)}
    assert (tmp_path / "figures" / "09_ill_formed.png").read_bytes().startswith(b"\x89PNG")


def test_of_couplets_drawn_anew_the_best_is_kept():
    written, shapes = iter(["no verse", COUPLETS[0], "nor this", "and this", "that is none, either"]), []

    def write(many):
        shapes.extend(many)
        return [next(written) for _ in many]

    best = benchmark.draw_anew(write, [(10, 10), (30, 15)], 80)
    assert shapes == [(10, 10)] * 4 + [(30, 15)] and best == [COUPLETS[0], "that is none, either"]


def test_the_command_line(tamil_checkpoint, verse, asked, tmp_path, monkeypatch, capsys):  # noqa: F811
    save_tamil(tmp_path / "codepoints.safetensors", "codepoints", 256)
    monkeypatch.setattr(pictures, "ROOT", tmp_path)
    flags = ["--checkpoint", tamil_checkpoint, "--data", verse, "--seed", 1]
    more = ["--num", 3, "--steps", 1, "--temp", 0.3, "--topk", 9, "--order", "margin"]
    code, out, err = run_script(SCRIPT, *flags, *more)
    assert code == 0 and "generated (3) | real, held out (2)" in out, err
    assert {(c["steps"], c["temperature"], c["top_k"], c["order"]) for c in asked} == {(1, 0.3, 9, "margin")}
    table = out
    code, out, err = run_script(SCRIPT, *flags, *more, "--codepoints", tmp_path / "codepoints.safetensors")
    assert code == 0 and out.startswith(table) and out.endswith("09_ill_formed.png\n"), err
    code, out, err = run_script(SCRIPT, *flags, "--couplets", "--topk", 1)
    assert code == 0 and "every third word of 2 couplets" in out and "| margin | " in out.splitlines()[-1], err
    for order in ("--num", 3), ("--steps", 3), ("--order", "margin"):
        assert_refused(run_script(SCRIPT, *flags, "--couplets", *order), 2, order[0])
    assert_refused(run_script(SCRIPT, *flags, "--mending", "--steps", 3), 2, "--mending")
    monkeypatch.setattr(benchmark, "MENDING_PASSES", (9, 20))
    monkeypatch.setattr("sys.argv", [SCRIPT, *map(str, flags), "--mending", "--num", "3"])
    benchmark.main()
    rows = re.findall(r"^\| (\d+) (?:\| \d+\.\d% \+- \d+\.\d% ){4}\|$", capsys.readouterr().out, re.M)
    assert rows == ["9", "20"]
    for kind in "--couplets", "--mending":
        assert_refused(run_script(SCRIPT, *flags, kind, "--metre"), 2, "--metre")
    assert_refused(run_script(SCRIPT, *flags, "--num", 1), 2, "--num")
    assert_refused(run_script(SCRIPT, *flags, "--couplets", "--codepoints", "x.pt"), 2, "--codepoints")
    assert_refused(run_script(SCRIPT, *flags, "--codepoints", tamil_checkpoint), 1, "is a model of letters")


def test_it_runs_from_the_root():
    command = [sys.executable, "-m", "benchmarks.tamil", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0 and "python -m benchmarks.tamil" in done.stdout, done.stderr
