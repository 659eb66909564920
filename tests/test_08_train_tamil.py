"""Lesson 8: the alphabet, how poems become windows, and runs that go on."""

import math
import re
from functools import partial
from importlib import import_module

import pytest
from conftest import ROOT, assert_refused, run_script

from tools import training_run
from tools.checkpoints import read_checkpoint, save_checkpoint
from tools.command_line import UserError

import torch

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
tamil_training = import_module("08_train_tamil")
tamil = import_module("tamil_dataset")

COUPLETS = [
    "அகர முதல எழுத்தெல்லாம் ஆதி\nபகவன் முதற்றே உலகு.",
    "கற்றதனால் ஆய பயனென்கொல் வாலறிவன்\nநற்றாள் தொழாஅர் எனின்.",
]
POEM = "வாழி ஆதன் வாழி அவினி\nநெற்பல பொலிக பொன்பெரிது சிறக்க\nஎனவேட் டோளே யாயே யாமே"


@pytest.fixture
def verse(tmp_path):
    """A file of 40 poems, three in four of them couplets."""
    path = tmp_path / "verse.txt"
    path.write_text("\n\n".join([COUPLETS[0], COUPLETS[1], POEM, COUPLETS[0]] * 10) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def numbered(tmp_path):
    """A file of 100 poems, most of them couplets, with numbers of three digits, from 100 on."""
    path = tmp_path / "numbered.txt"
    poems = [f"{POEM if i % 4 == 0 else COUPLETS[i % 2]} {i}" for i in range(100, 200)]
    path.write_text("\n\n".join(poems), encoding="utf-8")
    return path


@pytest.fixture
def quick(monkeypatch):
    """Runs in this process train a smaller model than `tiny`, and measure it once."""
    monkeypatch.setitem(transformer.PRESETS, "tiny", dict(context=64, n_layers=1, n_heads=2, dim=16))
    monkeypatch.setattr(training_run, "EVALUATIONS", 1)


@pytest.fixture
def given(monkeypatch):
    """What a run hands to lesson 5's `train`, as a dict, instead of training."""
    names, values = ("settings", "objective", "tokenizer", "config", "draw", "windows", "saved"), {}
    monkeypatch.setattr(training, "train", lambda *arguments: values.update(zip(names, arguments, strict=True)))
    return values


def begin(path, *flags):
    """Runs lesson 8 on the verse at `path`; its files lie beside it."""
    code, out, err = run_script("08_train_tamil.py", "--data", path, "--out", path.with_name("run.safetensors"), *flags)
    assert code == 0, err
    return out


def numbers(texts):
    """The numbers of the poems in some texts of `numbered`; those that a window cut in two are left out."""
    return {int(number) for text in texts for number in re.findall(r"\b\d{3}\b", text)}


# ---- The alphabet
def test_the_grid_holds_every_letter_once():
    grid = tamil_training.letter_grid()
    assert len(grid) == len(set(grid)) == 12 + 1 + (18 + 5) * 13
    assert all(re.fullmatch(tamil.LETTER, letter) for letter in grid)
    assert {"அ", "க", "கா", "கௌ", "க்", "ஸ்", "ஃ"} <= set(grid)


@pytest.mark.parametrize("kind", ["letters", "codepoints"])
def test_the_real_verse_makes_the_round_trip(kind):
    if not (ROOT / "data" / "thirukkural.json").exists() or not (ROOT / "data" / "madurai").exists():
        pytest.skip("data/thirukkural.json and data/madurai are not there")
    works = tamil.collect(["thirukkural", "kuruntokai"])
    text = "\n\n".join(poem for poems in works.values() for poem in poems)
    tokenizer = tensors.Tokenizer(tamil_training.make_units(text, kind))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size == {"letters": 312, "codepoints": 48}[kind] + len(tamil_training.OTHERS)
    assert len(ids) < len(text) if kind == "letters" else len(ids) == len(text)


def test_a_token_is_a_letter_whatever_follows():
    tokenizer = tensors.Tokenizer(tamil_training.make_units("", "letters"))
    assert [tokenizer.units[i] for i in tokenizer.encode("கொக்கு ஔ")] == ["கொ", "க்", "கு", " ", "ஔ"]


def test_what_is_not_tamil_becomes_a_unit_where_it_occurs_often(capsys):
    text = "கல் " * 50 + "अ" * tamil_training.OFTEN + " " + "आ" * (tamil_training.OFTEN - 1)
    tokenizer = tensors.Tokenizer(tamil_training.make_units(text, "letters"))
    assert "अ" in tokenizer.units and "आ" not in tokenizer.units
    assert tamil_training.keep_known(tokenizer, text) == text.rstrip("आ")
    assert f"{tamil_training.OFTEN - 1} of {len(text)}" in capsys.readouterr().err
    assert tamil_training.keep_known(tokenizer, COUPLETS[0]) == COUPLETS[0]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["letters", "codepoints"])
def test_a_latin_word_loses_no_letter(kind, capsys):
    text = "கல் 5 km. " * tamil_training.OFTEN + "Quartz"
    tokenizer = tensors.Tokenizer(tamil_training.make_units(text, kind))
    assert tamil_training.keep_known(tokenizer, text) == text and capsys.readouterr().err == ""
    rare = tensors.Tokenizer(tamil_training.make_units(text.replace("km", ""), kind))
    assert tamil_training.keep_known(rare, "கல் " * 3 + "Quartz") == "கல் " * 3  # a whole word is gone, not a part
    some = tensors.Tokenizer(tamil_training.make_units("km \u03b1 " * tamil_training.OFTEN, kind))  # and an alpha
    typed = "கல் " * 9 + "Z\u00fcrich, \u03b1\u03b2\u03b3-\u03b1 ‘கல்’"
    assert tamil_training.keep_known(some, typed).split() == ["கல்"] * 9 + [",", "-\u03b1", "கல்"]


def test_an_alphabet_of_another_script_is_refused(capsys):
    with pytest.raises(UserError, match="is it one of Tamil"):
        tamil_training.keep_known(tensors.Tokenizer(list("abc .\n")), COUPLETS[0])
    assert capsys.readouterr().err == ""


# ---- Poems
def test_one_poem_in_ten_is_held_out_by_lot():
    text = "\n\n".join(f"{i}" for i in range(125)) + "\n\n\n\n"
    poems, heldout = tamil_training.split_poems_for_training(text)
    assert len(heldout) == 12 and [int(poem) // 10 for poem in heldout] == list(range(12))
    assert len(poems) == 113 and set(poems) | set(heldout) == set(map(str, range(125)))
    assert len({int(poem) % 10 for poem in heldout}) > 3
    assert (poems, heldout) == tamil_training.split_poems_for_training(text)  # or a resumed run would see them
    with pytest.raises(UserError, match="ten or more"):
        tamil_training.split_poems_for_training("a\n\nb")


def test_in_prose_two_lines_are_no_couplet():
    assert tamil_training.couplets_of(["a"] * 30 + ["a\nb"] * 2) == []
    assert tamil_training.couplets_of(["a"] * 10 + ["a\nb"] * 2) == ["a\nb"] * 2
    with pytest.raises(UserError, match="couplets"):
        tamil_training.couplets_or_refuse(["a"] * 30)


def test_windows_are_of_poems_or_of_whole_couplets():
    tokenizer = tensors.Tokenizer(tamil_training.make_units("", "letters"))
    couplets = [*COUPLETS, COUPLETS[0], COUPLETS[0]]  # one length three times as often as the other
    draw = tamil_training.poem_windows(tokenizer, [*COUPLETS, POEM] * 3, couplets, 70, batch=4)
    generator, joined = torch.Generator().manual_seed(0), "\n\n".join([*COUPLETS, POEM] * 3)
    kinds = {COUPLETS[0]: 0, COUPLETS[1]: 0, "window": 0}
    for _ in range(1000):
        tokens = draw(generator)
        texts = [tokenizer.decode(row) for row in tokens]
        kind = texts[0] if texts[0] in COUPLETS else "window"
        assert len(texts) == (4 if kind == "window" else 4 * 70 // tokens.shape[1])  # as many letters, or almost
        kinds[kind] += 1
        assert all(text in joined if kind == "window" else text == kind for text in texts)
    assert abs(kinds["window"] - 300) < 50 and abs(kinds[COUPLETS[0]] - 3 * kinds[COUPLETS[1]]) < 120


@pytest.mark.parametrize("share, couplets", [(0, 0), (1, 50)])
def test_the_share_of_couplets(share, couplets, monkeypatch):
    monkeypatch.setattr(tamil_training, "COUPLET_SHARE", share)
    tokenizer, generator = tensors.Tokenizer(tamil_training.make_units("", "letters")), torch.Generator().manual_seed(0)
    draw = tamil_training.poem_windows(tokenizer, [POEM] * 3, COUPLETS, 40, batch=1)
    assert sum(tokenizer.decode(draw(generator)[0]) in COUPLETS for _ in range(50)) == couplets


def test_couplets_longer_than_the_context_are_no_windows():
    tokenizer, generator = tensors.Tokenizer(tamil_training.make_units("", "letters")), torch.Generator().manual_seed(0)
    length = len(tokenizer.encode(COUPLETS[0]))
    draw = tamil_training.poem_windows(tokenizer, [POEM] * 3, COUPLETS, length, batch=1)
    texts = {tokenizer.decode(draw(generator)[0]) for _ in range(30)}
    assert COUPLETS[0] in texts and COUPLETS[1] not in texts and all(len(tokenizer.encode(t)) <= length for t in texts)


def test_bits_per_couplet_are_bounds_in_the_order_given(small_model):
    model, tokenizer = small_model
    couplets = ["Shall I\ncompare", "thee\nto a day", "Thou art\nlovely", "more\nlovely an"]
    bits = tamil_training.bits_per_couplet(model, tokenizer, couplets, draws=1000)
    for couplet, figure in zip(couplets, bits.tolist(), strict=True):
        copies = torch.tensor(tokenizer.encode(couplet)).expand(1000, -1)
        nats = diffusion.bound(model, copies, generator=torch.Generator().manual_seed(7)).mean().item()
        assert figure == pytest.approx(nats * len(couplet) / math.log(2), rel=0.03)


# ---- Runs
def test_a_run_learns_nine_poems_in_ten_and_is_measured_on_the_others(numbered, given):
    begin(numbered)
    _, heldout = tamil_training.split_poems_for_training(numbered.read_text(encoding="utf-8"))
    decode, generator = given["tokenizer"].decode, torch.Generator().manual_seed(0)
    batches = [given["draw"](generator) for _ in range(100)]
    learned = numbers(decode(row) for batch in batches for row in batch)
    assert any(batch.shape[1] < 128 and decode(batch[0]).count("\n") == 1 for batch in batches)  # of couplets
    measured = numbers(map(decode, given["windows"]))
    assert measured and measured <= numbers(heldout)
    assert learned == set(range(100, 200)) - numbers(heldout)
    assert given["windows"].shape[1] == 128 and len(given["windows"]) > 1
    assert given["objective"].heldout is training.DIFFUSION.heldout and given["saved"] is None


def test_the_lesson_has_defaults_of_its_own(numbered, given):
    begin(numbered)
    settings, config = given["settings"], given["config"]
    assert (settings.preset, settings.dropout, settings.batch) == ("tiny", 0.1, 32)
    assert (config.dim, config.n_layers, config.context, config.dropout, config.causal) == (128, 4, 128, 0.1, False)
    begin(numbered, "--preset", "small", "--dropout", 0.2, "--batch", 3)
    settings, config = given["settings"], given["config"]
    assert (settings.preset, config.dim, config.dropout) == ("small", 256, 0.2)
    windows = [given["draw"](torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert {len(rows) for rows in windows if rows.shape[1] == 128} == {3}


@pytest.mark.parametrize("kind", ["letters", "codepoints"])
def test_both_kinds_of_unit_see_equally_much(numbered, given, kind):
    begin(numbered, "--units", kind)
    tokenizer, config = given["tokenizer"], given["config"]
    assert len(tokenizer.encode("கொக்கு")) == {"letters": 3, "codepoints": 6}[kind]
    text = numbered.read_text(encoding="utf-8")
    letters = len(re.findall(f"{tamil.LETTER}|.", text, re.DOTALL))
    assert config.context == round(128 * len(tokenizer.encode(text)) / letters) == given["windows"].shape[1]
    assert config.context == 128 if kind == "letters" else config.context > 150
    assert given["objective"].token == {"letters": "letter", "codepoints": "code point"}[kind]


def test_code_points_cover_what_letters_do_not(numbered, given):
    """A stray sign is no letter, but it is a code point."""
    text = numbered.read_text(encoding="utf-8")
    numbered.write_text(text.replace("உலகு. ", "உலகு. ா "), encoding="utf-8")
    begin(numbered, "--units", "codepoints")
    assert any(" ா" in given["tokenizer"].decode(given["draw"](torch.Generator().manual_seed(i))[0]) for i in range(50))


@pytest.mark.parametrize("kind", ["letters", "codepoints"])
def test_a_run_resumes_and_is_measured(verse, quick, kind):
    out = verse.with_name("run.safetensors")
    printed = begin(verse, "--batch", 2, "--units", kind, "--steps", 2)
    assert printed.strip() == f"python 09_generate_tamil.py --checkpoint {verse.with_name('run_best.safetensors')}"
    before = read_checkpoint(out)
    code, _, err = run_script("08_train_tamil.py", "--resume", "--out", out, "--steps", 3)
    assert code == 0 and (after := read_checkpoint(out))["step"] == 3, err
    token = {"letters": "letter", "codepoints": "code point"}[kind]
    assert f" nats/{token}\n" in err and re.search(rf"3 steps, [\d,]+ {token}s, ", err) and "character" not in err
    assert out.with_suffix(".csv").read_text().startswith("step,seconds,characters,lr,loss,heldout\n")
    assert after["config"] == before["config"] and after["units"] == before["units"]
    assert after["settings"]["preset"] == "tiny" and after["settings"]["script"] == "08_train_tamil.py"
    best = verse.with_name("run_best.safetensors")
    code, printed, err = run_script("08_train_tamil.py", "--evaluate", best, "--data", verse)
    assert code == 0 and "bits per couplet (2 couplets)" in printed, err
    model, tokenizer, _ = training.load_checkpoint(best)
    _, heldout = tamil_training.split_poems_for_training(verse.read_text(encoding="utf-8"))
    bits = tamil_training.bits_per_couplet(model, tokenizer, tamil_training.couplets_or_refuse(heldout))
    assert f"bound {bits.mean():.1f} +- " in printed
    resume = partial(run_script, "08_train_tamil.py", "--resume", "--out", out, "--steps", 3, "--units")
    assert resume(kind)[0] == 0
    [other] = {"letters", "codepoints"} - {kind}
    assert_refused(resume(other), 1, f"has --units {kind}, not {other}")
    assert_refused(run_script("08_train_tamil.py", "--evaluate", best, "--units", kind), 2, "--units")


SPOILED = {  # (where in a run's checkpoint, value(what is there), a word of the sentence that refuses it)
    "a unit twice": (["units"], lambda units: [units[0], *units[:-1]], "alphabet"),
    "a unit that is no text": (["units"], lambda units: [7, *units[1:]], "alphabet"),
    "a unit too few": (["units"], lambda units: units[1:], "alphabet"),
    "units that are no list": (["units"], "".join, "alphabet"),
    "other units": (["units"], lambda units: [chr(0x4E00 + i) for i in range(len(units))], "is it one of Tamil"),
    "no context": (["config", "context"], lambda context: 0, "context"),
    "another context": (["config", "context"], lambda context: 99_999, "another one than its settings"),
    "another preset": (["settings", "preset"], lambda preset: "small", "another one than its settings"),
}


def test_a_spoiled_run_is_refused_and_left_as_it_is(verse, quick):
    begin(verse, "--batch", 2, "--steps", 1)
    out = verse.with_name("run.safetensors")
    whole = out.read_bytes()
    for name, (where, value, word) in SPOILED.items():
        out.write_bytes(whole)
        saved = part = read_checkpoint(out)
        for field in where[:-1]:
            part = part[field]
        part[where[-1]] = value(part[where[-1]])
        save_checkpoint(saved, out)
        before = out.read_bytes()
        assert_refused(run_script("08_train_tamil.py", "--resume", "--steps", 2, "--out", out), 1, word)
        assert out.read_bytes() == before, name


def test_another_lessons_run_and_another_text_are_refused(numbered, text_file, quick):
    english = text_file.with_name("english.safetensors")
    flags = ["--preset", "tiny", "--batch", 2, "--steps", 1, "--data", text_file, "--out", english]
    assert run_script("05_train.py", *flags)[0] == 0
    before = english.read_bytes()
    assert_refused(run_script("08_train_tamil.py", "--resume", "--out", english, "--steps", 2), 1, "05_train.py")
    assert_refused(run_script("08_train_tamil.py", "--evaluate", english, "--data", numbered), 1, "is it one of Tamil")
    assert english.read_bytes() == before
    begin(numbered, "--batch", 2, "--steps", 1)
    run = numbered.with_name("run.safetensors")
    assert_refused(run_script("05_train.py", "--resume", "--out", run, "--steps", 2), 1, "08_train_tamil.py")
    numbered.write_text(numbered.read_text(encoding="utf-8") + "\nஆதி", encoding="utf-8")
    assert_refused(run_script("08_train_tamil.py", "--resume", "--out", run, "--steps", 2), 1, "another text")


def test_bad_input_is_one_sentence(tmp_path, text_file):
    flags = ["--dtype", "float32", "--out", tmp_path / "run.safetensors"]
    assert_refused(run_script("08_train_tamil.py", *flags, "--data", text_file), 1, "not Tamil")
    assert_refused(run_script("08_train_tamil.py", *flags, "--units", "words"), 2, "--units")
    (tmp_path / "short.txt").write_text("அகர\n\nமுதல", encoding="utf-8")
    assert_refused(run_script("08_train_tamil.py", *flags, "--data", tmp_path / "short.txt"), 1, "2 poems")
    for poems, words in ((["அகர"] * 30, "held out"), ([POEM] * 9 + ["அ"], "tokens")):
        (tmp_path / "short.txt").write_text("\n\n".join(poems), encoding="utf-8")
        assert_refused(run_script("08_train_tamil.py", *flags, "--data", tmp_path / "short.txt"), 1, words)
    assert not (tmp_path / "run.safetensors").exists()


def test_without_the_poems_it_says_which_script_makes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(tamil, "TAMIL_TEXT", tmp_path / "tamil.txt")
    with pytest.raises(UserError, match="python tamil_dataset.py"):
        tamil_training.load_tamil(None)
    (tmp_path / "tamil.txt").write_text(POEM, encoding="utf-8")
    assert tamil_training.load_tamil(None) == POEM
