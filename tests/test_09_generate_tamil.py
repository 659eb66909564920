"""Lesson 9: the metre of couplets that are known to be right, and what the script writes."""

import random
from dataclasses import asdict
from importlib import import_module

import pytest
import torch
from conftest import ROOT, assert_refused, run_script
from test_08_train_tamil import COUPLETS, verse  # noqa: F401

lesson1 = import_module("01_tensors")
transformer = import_module("03_transformer")
tamil = import_module("tamil_dataset")
lesson8 = import_module("08_train_tamil")
lesson9 = import_module("09_generate_tamil")


@pytest.fixture
def real_couplets():
    """The Thirukkural, mended."""
    if not (ROOT / "data" / "thirukkural.json").exists():
        pytest.skip("data/thirukkural.json is not there")
    return [tamil.mend(couplet)[0] for couplet in tamil.read_work(tamil.WORKS["thirukkural"])]


@pytest.fixture
def tamil_checkpoint(tmp_path):
    """The path of an untrained model of Tamil letters."""
    units = lesson8.make_units("", "letters")
    torch.manual_seed(0)
    model = transformer.Transformer(transformer.Config(len(units), 128, 1, 2, 16))
    path = tmp_path / "tamil.pt"
    torch.save(dict(model=model.state_dict(), config=asdict(model.config), units=units), path)
    return path


@pytest.mark.parametrize(
    "word, vowels", [("அகரம்", ["அ", "அ", "அ", ""]), ("கொள்கை", ["ஒ", "", "ஐ"]), ("அஃது", ["அ", "", "உ"]), ("ஔவையார்", ["ஔ", "ஐ", "ஆ", ""])]
)
def test_vowels(word, vowels):
    assert [lesson9.vowel_of(letter) for letter in lesson9.letters_of(word)] == vowels


@pytest.mark.parametrize(
    "word, syllables",  # the mnemonic words of Tamil prosody scan as what they name
    [("தேமா", "NN"), ("புளிமா", "RN"), ("கூவிளம்", "NR"), ("கருவிளம்", "RR"), ("தேமாங்காய்", "NNN"), ("புளிமாங்காய்", "RNN"),
     ("கூவிளங்காய்", "NRN"), ("கருவிளங்காய்", "RRN"), ("தேமாங்கனி", "NNR"), ("நாள்", "N"), ("மலர்", "R"), ("காசு", "NN"), ("பிறப்பு", "RN")],
)  # fmt: skip
def test_the_mnemonics_scan_as_what_they_name(word, syllables):
    assert lesson9.metremes(word) == syllables


def test_first_couplet_of_the_thirukkural():
    assert lesson9.strict_metre(COUPLETS[0]) and lesson9.rhymes(COUPLETS[0]) and lesson9.four_and_three(COUPLETS[0])
    assert not lesson9.strict_metre("அகர முதல ஆதி எழுத்தெல்லாம்\nபகவன் முதற்றே உலகு.")  # the order of words matters
    assert not lesson9.strict_metre("அகர முதல ஆதி\nபகவன் முதற்றே உலகு.")
    assert not lesson9.rhymes("அகர முதல எழுத்தெல்லாம் ஆதி\nபந்தி முதற்றே உலகு.")


def test_a_final_u_before_a_vowel_may_be_dropped():
    assert lesson9.scansions("உடையது", "உடையரோ") == ["RR", "RN"]
    assert lesson9.scansions("உடையது", "கற்க") == ["RR"]
    assert lesson9.scansions("விடூஉ", "உலகு") == ["RN"]  # there, u marks the length of another one


def test_the_scan_tells_real_couplets_from_shuffled_ones(real_couplets):
    source = random.Random(0)
    shuffled = [lesson9.shuffle_words(couplet, source) for couplet in real_couplets]
    share = lambda function, couplets: lesson9.average(function, [[couplet] for couplet in couplets])[0]  # noqa: E731
    assert share(lesson9.strict_metre, real_couplets) == pytest.approx(0.73, abs=0.02)
    assert share(lesson9.spoken_metre, real_couplets) == pytest.approx(0.95, abs=0.01)
    assert share(lesson9.strict_metre, shuffled) < 0.03 and share(lesson9.spoken_metre, shuffled) < 0.03
    assert share(lesson9.rhymes, real_couplets) == pytest.approx(0.59, abs=0.01)
    assert share(lesson9.rhymes, shuffled) == pytest.approx(0.15, abs=0.03)


def test_shuffled_couplets_keep_their_words_and_shape(real_couplets):
    for couplet in real_couplets[:50]:
        shuffled = lesson9.shuffle_words(couplet, random.Random(1))
        before, after = lesson9.words_of(couplet), lesson9.words_of(shuffled)
        assert [c for c in shuffled if c in " \n.,?"] == [c for c in couplet if c in " \n.,?"]
        assert sorted(sum(before, [])) == sorted(sum(after, [])) and list(map(len, before)) == list(map(len, after))


def test_score_of_known_couplets():
    score = lesson9.Score(COUPLETS[0])
    assert score.known_words(COUPLETS[0]) == 1 and score.known_words("அகர குகர முதல\nகுகர") == 0.5
    assert lesson9.ill_formed_share("கா ா\nகி") == pytest.approx(1 / 3)
    assert score.overlap("பகர முதல எழுபது\nகுகர") == len(["க", "ர", " ", "மு", "த", "ல", " ", "எ", "ழு"])


def test_couplets_have_the_shapes_asked_for(tamil_checkpoint):
    from argparse import Namespace

    training = import_module("05_train")
    model, tokenizer, _ = training.load_checkpoint(tamil_checkpoint)
    shapes = [(12, 9), (15, 11), (12, 9)]
    args = Namespace(temp=1.0, topk=None, order="random")
    couplets = lesson9.write_couplets(model, tokenizer, shapes, 5, args, torch.Generator().manual_seed(0))
    for couplet, (first, second) in zip(couplets, shapes, strict=True):
        ids = tokenizer.encode(couplet)
        assert len(ids) == first + 1 + second and ids[first] == tokenizer.id_of["\n"] and couplet.count("\n") == 1
    assert couplets[0] != couplets[2]


def test_the_script_writes_verse_and_couplets(tamil_checkpoint, verse):  # noqa: F811
    flags = ["--checkpoint", tamil_checkpoint, "--seed", 1, "--steps", 3]
    code, out, err = run_script("09_generate_tamil.py", *flags, "--len", 30, "--prompt", "அகர", "--num", 2)
    assert code == 0 and out.startswith("அகர") and err == ""
    first, second = (run_script("09_generate_tamil.py", *flags, "--kural", "--num", 3, "--data", verse) for _ in range(2))
    assert first[0] == 0 and first == second and first[2] == ""


def test_the_score(tamil_checkpoint, verse):  # noqa: F811
    flags = ["--checkpoint", tamil_checkpoint, "--seed", 1, "--steps", 1, "--data", verse]
    code, out, err = run_script("09_generate_tamil.py", "--score", *flags)
    assert code == 0, err
    for part in ("generated (400)", "real, held out (", "| metre, as spoken |", "| the model's bound, bits per couplet (of the first shuffle) |"):
        assert part in out, out
    assert "| ill-formed letters | 0.0% +- 0.0% | 0.0% +- 0.0% | 0.0% +- 0.0% |" in out  # letters, by construction


def test_code_points_come_out_ill_formed_and_letters_do_not(tamil_checkpoint, verse, tmp_path, monkeypatch, capsys):  # noqa: F811
    from argparse import Namespace

    training = import_module("05_train")
    units = lesson8.make_units("", "codepoints")
    model = transformer.Transformer(transformer.Config(len(units), 256, 1, 2, 16))
    writers = {"letters": training.load_checkpoint(tamil_checkpoint)[:2], "code points": (model, lesson1.Tokenizer(units))}
    monkeypatch.setattr(lesson1, "ROOT", tmp_path)
    monkeypatch.setattr(lesson9, "PASSES", (1, 4))
    args = Namespace(data=verse, num=50, temp=1.0, topk=None, order="random")
    _, known, real = lesson9.read_couplets(writers["letters"][1], args)
    lesson9.compare_code_points(writers, known, real, args, torch.Generator().manual_seed(0))
    out = capsys.readouterr().out
    assert "letters: ill-formed letters 0.0% in 1, 0.0% in 4 passes" in out
    assert float(out.split("code points: ill-formed letters ")[1].split("%")[0]) > 10  # signs and letters drawn alike
    assert "letters save" in out
    assert (tmp_path / "figures" / "09_ill_formed.png").read_bytes().startswith(b"\x89PNG")


def test_a_text_without_couplets_is_refused(tamil_checkpoint, tmp_path):
    (tmp_path / "prose.txt").write_text("\n\n".join(["அகர முதல"] * 30), encoding="utf-8")
    flags = ["--checkpoint", tamil_checkpoint, "--seed", 1, "--data", tmp_path / "prose.txt"]
    assert_refused(run_script("09_generate_tamil.py", "--kural", *flags), 1, "couplets")


@pytest.mark.parametrize(
    "flags, status, word",
    [(["--len", "129"], 2, "128"), (["--prompt", "Rose"], 1, "'R' at position 1"), (["--kural", "--prompt", "அகர"], 2, "--prompt"),
     (["--len", "1", "--prompt", "அகர"], 1, "--len 1"), (["--codepoints", "x.pt"], 2, "--score"), (["--order", "sideways"], 2, "--order"), (["--kural", "--data", "nowhere.txt"], 1, "nowhere.txt")],
)  # fmt: skip
def test_bad_input_is_one_sentence(tamil_checkpoint, flags, status, word):
    assert_refused(run_script("09_generate_tamil.py", "--checkpoint", tamil_checkpoint, "--seed", 1, *flags), status, word)


def test_the_shipped_model_writes_well_formed_letters_from_any_folder(tmp_path):
    code, out, err = run_script("09_generate_tamil.py", "--seed", 1, "--steps", 16, "--num", 2, cwd=tmp_path)
    assert code == 0 and not tamil.ill_formed(out), err
    assert sum(len(lesson9.letters_of(word)) for word in out.split()) > 100
