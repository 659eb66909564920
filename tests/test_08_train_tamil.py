"""Lesson 8: letters, poems, couplets, and a run of a few steps."""

import math
import re
from importlib import import_module

import pytest
import torch
from conftest import ROOT, assert_refused, run_script

lesson1 = import_module("01_tensors")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
tamil = import_module("tamil_dataset")
lesson8 = import_module("08_train_tamil")

COUPLETS = ["அகர முதல எழுத்தெல்லாம் ஆதி\nபகவன் முதற்றே உலகு.", "கற்றதனால் ஆய பயனென்கொல் வாலறிவன்\nநற்றாள் தொழாஅர் எனின்."]
POEM = "வாழி ஆதன் வாழி அவினி\nநெற்பல பொலிக பொன்பெரிது சிறக்க\nஎனவேட் டோளே யாயே யாமே"


@pytest.fixture
def verse(tmp_path):
    """A file of 40 poems, three in four of them couplets."""
    path = tmp_path / "verse.txt"
    path.write_text("\n\n".join([COUPLETS[0], COUPLETS[1], POEM, COUPLETS[0]] * 10) + "\n", encoding="utf-8")
    return path


def test_the_grid_holds_every_letter_once():
    grid = lesson8.letter_grid()
    assert len(grid) == len(set(grid)) == 12 + 1 + (18 + 5) * 13
    assert all(re.fullmatch(tamil.LETTER, letter) for letter in grid)
    assert {"அ", "க", "கா", "கௌ", "க்", "ஸ்", "ஃ"} <= set(grid)


@pytest.mark.parametrize("kind", ["letters", "codepoints"])
def test_the_real_verse_makes_the_round_trip(kind):
    if not (ROOT / "data" / "thirukkural.json").exists() or not (ROOT / "data" / "madurai").exists():
        pytest.skip("data/thirukkural.json and data/madurai are not there")
    text = "\n\n".join(poem for poems in tamil.collect(list(tamil.WORKS)).values() for poem in poems)
    tokenizer = lesson1.Tokenizer(lesson8.make_units(text, kind))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size == {"letters": 312, "codepoints": 48}[kind] + len(lesson8.OTHERS)
    assert len(ids) < len(text) if kind == "letters" else len(ids) == len(text)


def test_a_token_is_a_letter_whatever_follows():
    tokenizer = lesson1.Tokenizer(lesson8.make_units("", "letters"))
    assert [tokenizer.units[i] for i in tokenizer.encode("கொக்கு ஔ")] == ["கொ", "க்", "கு", " ", "ஔ"]


def test_what_is_not_tamil_becomes_a_unit_where_it_occurs_often(capsys):
    text = "கல் " * 50 + "x" * lesson8.OFTEN + "y" * (lesson8.OFTEN - 1)
    tokenizer = lesson1.Tokenizer(lesson8.make_units(text, "letters"))
    assert "x" in tokenizer.units and "y" not in tokenizer.units
    assert lesson8.keep_known(tokenizer, text) == text.rstrip("y")
    assert f"{lesson8.OFTEN - 1} of {len(text)}" in capsys.readouterr().err


def test_one_poem_in_ten_is_held_out_by_lot():
    poems, heldout = lesson8.split_poems_for_training("\n\n".join(f"{i}" for i in range(125)) + "\n\n\n\n")
    assert len(heldout) == 12 and [int(poem) // 10 for poem in heldout] == list(range(12))
    assert len(poems) == 113 and set(poems) | set(heldout) == set(map(str, range(125)))
    assert len({int(poem) % 10 for poem in heldout}) > 3
    with pytest.raises(lesson1.UserError, match="ten or more"):
        lesson8.split_poems_for_training("a\n\nb")


def test_in_prose_two_lines_are_no_couplet():
    assert lesson8.couplets_of(["a"] * 30 + ["a\nb"] * 2) == []
    assert lesson8.couplets_of(["a"] * 10 + ["a\nb"] * 2) == ["a\nb"] * 2
    with pytest.raises(lesson1.UserError, match="couplets"):
        lesson8.couplets_or_refuse(["a"] * 30)


def test_windows_are_of_poems_or_of_whole_couplets():
    tokenizer = lesson1.Tokenizer(lesson8.make_units("", "letters"))
    draw = lesson8.poem_windows(tokenizer, [*COUPLETS, POEM] * 3, COUPLETS, 40, batch=4)
    generator, joined = torch.Generator().manual_seed(0), "\n\n".join([*COUPLETS, POEM] * 3)
    kinds = {"couplet": 0, "window": 0}
    for _ in range(200):
        tokens = draw(generator)
        texts = [tokenizer.decode(row) for row in tokens]
        kind = "couplet" if texts[0] in COUPLETS else "window"
        assert len(texts) == (4 if kind == "window" else 4 * 40 // tokens.shape[1])  # as many letters, or almost
        kinds[kind] += 1
        assert all(text in (COUPLETS if kind == "couplet" else joined) for text in texts)
    assert 110 < kinds["couplet"] < 170


def test_bits_per_couplet_are_bounds_in_the_order_given(small_model):
    model, tokenizer = small_model
    couplets = ["Shall I\ncompare", "thee\nto a day", "Thou art\nlovely", "more\nlovely an"]
    bits = lesson8.bits_per_couplet(model, tokenizer, couplets, draws=2000)
    for couplet, figure in zip(couplets, bits.tolist(), strict=True):
        copies = torch.tensor(tokenizer.encode(couplet)).expand(2000, -1)
        nats = diffusion.bound(model, copies, generator=torch.Generator().manual_seed(7)).mean().item()
        assert figure == pytest.approx(nats * len(couplet) / math.log(2), rel=0.02)


@pytest.mark.parametrize("kind", ["letters", "codepoints"])
def test_a_run_resumes_and_is_measured(tmp_path, verse, kind):
    out = tmp_path / "run.pt"
    flags = ["--data", verse, "--batch", 2, "--units", kind, "--out", out]
    code, printed, err = run_script("08_train_tamil.py", *flags, "--steps", 2)
    assert code == 0, err
    assert printed.strip() == f"python 09_generate_tamil.py --checkpoint {tmp_path / 'run_best.pt'}"
    code, _, err = run_script("08_train_tamil.py", "--resume", "--out", out, "--steps", 3)
    assert code == 0 and (saved := torch.load(out, weights_only=True))["step"] == 3, err
    assert saved["settings"]["preset"] == "tiny" and saved["config"]["dim"] == 128
    _, tokenizer, info = training.load_checkpoint(out)
    assert len(tokenizer.encode("கொக்கு")) == {"letters": 3, "codepoints": 6}[kind]
    assert info["config"]["context"] == 128 if kind == "letters" else info["config"]["context"] > 150
    code, printed, err = run_script("08_train_tamil.py", "--evaluate", tmp_path / "run_best.pt", "--data", verse)
    assert code == 0 and "bits per couplet (2 couplets)" in printed, err
    assert_refused(run_script("08_train_tamil.py", "--resume", "--out", out, "--units", kind), 2, "--units")


def test_bad_input_is_one_sentence(tmp_path, text_file):
    flags = ["--out", tmp_path / "run.pt"]
    assert_refused(run_script("08_train_tamil.py", *flags, "--data", text_file), 1, "not Tamil")
    assert_refused(run_script("08_train_tamil.py", *flags, "--units", "words"), 2, "--units")
    (tmp_path / "short.txt").write_text("அகர\n\nமுதல", encoding="utf-8")
    assert_refused(run_script("08_train_tamil.py", *flags, "--data", tmp_path / "short.txt"), 1, "2 poems")


def test_without_the_poems_it_says_which_script_makes_them(tmp_path, monkeypatch):
    from argparse import Namespace

    monkeypatch.setattr(tamil, "TAMIL_TEXT", tmp_path / "tamil.txt")
    with pytest.raises(lesson1.UserError, match="python tamil_dataset.py"):
        lesson8.load_tamil(Namespace(data=None))
