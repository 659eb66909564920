"""Lesson 9: the metre of couplets that are known to be right, what the script writes, and its score."""

import itertools
import random
import re
from functools import partial
from importlib import import_module
from types import SimpleNamespace

import pytest
from conftest import ROOT, assert_refused, random_model, run_script, save_model, seeded
from test_08_train_tamil import COUPLETS, POEM, verse  # noqa: F401

import torch

diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
tensors = import_module("01_tensors")
tamil_training = import_module("08_train_tamil")
tamil_generation = import_module("09_generate_tamil")
tamil = import_module("tamil_dataset")


def settle(temperature, **settings):
    """number of letters -> Sampling, as lesson 9 has it: a letter a pass, none taken back."""
    defaults = dict(revise=0, letters_a_pass=1)
    return partial(generation.Sampling.for_letters, temperature=temperature, **defaults | settings)


@pytest.fixture
def real_couplets():
    """The Thirukkural, mended."""
    if not (ROOT / "data" / "thirukkural.json").exists():
        pytest.skip("data/thirukkural.json is not there")
    return [tamil.mend(couplet)[0] for couplet in tamil.read_work(tamil.WORKS["thirukkural"])]


def save_tamil(path, kind="letters", context=128):
    """An untrained model of Tamil letters or code points, saved at `path`. Returns (model, tokenizer)."""
    units = tamil_training.make_units("", kind)
    model = random_model(len(units), context, n_layers=1, std=0.5)
    save_model(path, model, units)
    return model, tensors.Tokenizer(units)


@pytest.fixture
def tamil_checkpoint(tmp_path):
    """The path of an untrained model of Tamil letters."""
    save_tamil(tmp_path / "tamil.safetensors")
    return tmp_path / "tamil.safetensors"


@pytest.fixture
def one_shape(tmp_path):
    """A file of 20 couplets of one shape, so that no seed changes the canvas."""
    path = tmp_path / "one_shape.txt"
    path.write_text("\n\n".join([COUPLETS[0]] * 20), encoding="utf-8")
    return path


@pytest.fixture
def asked(monkeypatch):
    """The settings that reached lesson 4's sampler, a dict for each canvas."""
    calls, sample = [], diffusion.sample

    def note(model, canvas, steps, **settings):
        names = "temperature", "top_k", "order"
        calls.append(dict(steps=steps, masks=int((canvas[0] == model.config.vocab_size).sum()))
                     | {name: settings[name] for name in names})  # fmt: skip
        return sample(model, canvas, steps, **settings)

    monkeypatch.setattr(diffusion, "sample", note)
    return calls


# ---- The metre
def test_faults_of_the_metre_are_in_the_words_that_break_it():
    good = "அகர முதல எழுத்தெல்லாம் ஆதி\nபகவன் முதற்றே உலகு"
    assert tamil_generation.metre_faults(good) == []
    spaced = good.replace(" ", "  ")
    assert tamil_generation.spoken_metre(spaced) and tamil_generation.metre_faults(spaced)  # to be mended all the same
    bad = good.replace("பகவன்", "பா")
    faults = tamil_generation.metre_faults(bad)
    assert faults and min(faults) >= bad.index("ஆதி") and max(faults) < bad.index("உலகு")
    joined = good.replace("அகர முதல", "அகரமுதல")
    faults = tamil_generation.metre_faults(joined)
    assert set(faults) >= set(range(joined.index("\n"))) and not tamil_generation.spoken_metre(joined)


@pytest.mark.parametrize(
    "word, vowels",
    [("அகரம்", ["அ", "அ", "அ", ""]), ("கொள்கை", ["ஒ", "", "ஐ"]), ("அஃது", ["அ", "", "உ"]),
     ("ஔவையார்", ["ஔ", "ஐ", "ஆ", ""])],
)  # fmt: skip
def test_vowels(word, vowels):
    assert [tamil_generation.vowel_of(letter) for letter in tamil_generation.letters_of(word)] == vowels


@pytest.mark.parametrize(
    "word, syllables",  # the mnemonic words of Tamil prosody scan as what they name
    [("தேமா", "NN"), ("புளிமா", "RN"), ("கூவிளம்", "NR"), ("கருவிளம்", "RR"), ("தேமாங்காய்", "NNN"),
     ("புளிமாங்காய்", "RNN"), ("கூவிளங்காய்", "NRN"), ("கருவிளங்காய்", "RRN"), ("தேமாங்கனி", "NNR"), ("நாள்", "N"),
     ("மலர்", "R"), ("காசு", "NN"), ("பிறப்பு", "RN")],
)  # fmt: skip
def test_the_mnemonics_scan_as_what_they_name(word, syllables):
    assert tamil_generation.metremes(word) == syllables


def test_ai_is_short_unless_it_begins_a_word():
    assert tamil_generation.metremes("வைகலை") == "NR" and tamil_generation.metremes("கலை") == "R"


def test_first_couplet_of_the_thirukkural():
    couplet = COUPLETS[0]
    assert tamil_generation.strict_metre(couplet) and tamil_generation.rhymes(couplet)
    assert tamil_generation.four_and_three(couplet)
    feet = [tamil_generation.metremes(word) for words in tamil_generation.words_of(couplet) for word in words]
    assert feet == ["RN", "RN", "RNN", "NN", "RN", "RN", "RN"]  # as the lesson shows
    moved = "அகர முதல ஆதி எழுத்தெல்லாம்\nபகவன் முதற்றே உலகு."
    assert not tamil_generation.strict_metre(moved)  # the order of words matters
    assert not tamil_generation.strict_metre("அகர முதல ஆதி\nபகவன் முதற்றே உலகு.")
    assert not tamil_generation.rhymes("அகர முதல எழுத்தெல்லாம் ஆதி\nபந்தி முதற்றே உலகு.")


def test_a_final_u_before_a_vowel_may_be_dropped():
    assert tamil_generation.scansions("உடையது", "உடையரோ") == ["RR", "RN"]
    assert tamil_generation.scansions("உடையது", "கற்க") == ["RR"]
    assert tamil_generation.scansions("விடூஉ", "உலகு") == ["RN"]  # there, u marks the length of another one
    assert tamil_generation.scansions("அஃது", "ஒருவன்") == ["NN", "N", "RN", "R"]  # the aytham is a vowel, or none
    assert tamil_generation.scansions("நாடுஎன்ப", "கற்க") == ["NRN", "NNN"]  # a short u is lost inside a word, too


@pytest.mark.parametrize(
    "feet, last_word, follows",
    [(["NN", "RR", "NNN", "N"], "நாள்", True), (["NN", "NR", "N"], "நாள்", False), (["RR", "RN", "R"], "மலர்", False),
     (["RNN", "NN", "RN"], "பிறப்பு", True), (["RNN", "NN", "RN"], "பிறப்ப", False), (["NNR", "NN", "R"], "மலர்", False),
     (["NR", "NN", "RR"], "மலரது", False)],
)  # fmt: skip
def test_which_foot_may_follow_which(feet, last_word, follows):
    pairs = itertools.pairwise([*feet, None])
    assert (not any(tamil_generation.feet_of_fault(*pair, last_word) for pair in pairs)) is follows


def test_the_best_of_all_readings_is_found_and_soon():
    """Each word may be spoken in two ways or more: few words by all their combinations, many in no time."""
    lottery = random.Random(0)
    words = ["அது", "ஆடு", "நாடுஎன்ப", "அஃது", "ஒருவன்", "உலகு", "கற்க", "மலர்", "எஃகம்", "இன்று"]
    for _ in range(40):
        couplet = " ".join(lottery.choices(words, k=4)) + "\n" + " ".join(lottery.choices(words, k=3))
        forms, spans = zip(*((word.group(), word.span()) for word in re.finditer(r"\S+", couplet)))
        costs = []
        for feet in itertools.product(*map(tamil_generation.scansions, forms, [*forms[1:], ""])):
            counts = [tamil_generation.feet_of_fault(*pair, forms[-1]) for pair in itertools.pairwise([*feet, None])]
            costs.append(sum(spans[i + n - 1][1] - spans[i][0] for i, n in enumerate(counts) if n))
        assert len(tamil_generation.metre_faults(couplet)) == min(costs)
    line = " ".join(["அது", "ஆடு"] * 100)
    assert tamil_generation.metre_faults(f"{line}\n{line}")


def test_the_scan_tells_real_couplets_from_shuffled_ones(real_couplets):
    source = random.Random(0)
    shuffled = [tamil_generation.shuffle_words(couplet, source) for couplet in real_couplets]
    strict, spoken, rhymes = (
        [tamil_generation.average(function, [[couplet] for couplet in group])[0] for group in (real_couplets, shuffled)]
        for function in (tamil_generation.strict_metre, tamil_generation.spoken_metre, tamil_generation.rhymes)
    )
    assert strict[0] == pytest.approx(0.75, abs=0.02) and strict[1] < 0.03
    assert spoken[0] == pytest.approx(0.96, abs=0.01) and spoken[1] < 0.03
    assert rhymes == [pytest.approx(0.59, abs=0.01), pytest.approx(0.15, abs=0.03)]


def test_shuffled_couplets_keep_their_words_and_shape(real_couplets):
    source, changed = random.Random(1), 0
    for couplet in real_couplets[:50]:
        shuffled = tamil_generation.shuffle_words(couplet, source)
        before, after = tamil_generation.words_of(couplet), tamil_generation.words_of(shuffled)
        assert [c for c in shuffled if c in " \n.,?"] == [c for c in couplet if c in " \n.,?"]
        assert sorted(sum(before, [])) == sorted(sum(after, [])) and list(map(len, before)) == list(map(len, after))
        changed += before != after
    assert changed > 45


# ---- Writing
class LovesBreaks:
    """A model to which a line break is almost certain everywhere, and the letters are equally likely."""

    def __init__(self, tokenizer):
        self.config = SimpleNamespace(vocab_size=tokenizer.vocab_size, context=128)
        self.head, self.line_break = SimpleNamespace(weight=torch.zeros(1)), tokenizer.id_of["\n"]
        self.passes = 0

    def __call__(self, tokens):
        self.passes += 1
        logits = torch.zeros(*tokens.shape, self.config.vocab_size)  # [B, L, V]
        logits[..., self.line_break] = 50.0
        return logits


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_couplet_has_the_one_break_that_is_given(temperature):
    tokenizer = tensors.Tokenizer(tamil_training.make_units("", "letters"))
    model, sampling_for = LovesBreaks(tokenizer), settle(temperature)
    free = tamil_generation.write_verse(model, tokenizer, sampling_for, "", "", 20, 2, seeded())
    assert free == ["\n" * 20] * 2  # that is what it writes by itself
    shapes = [(12, 9), (5, 6)]
    couplets = tamil_generation.write_couplets(model, tokenizer, shapes, sampling_for, seeded())
    for couplet, shape in zip(couplets, shapes):
        lines = couplet.split("\n")
        assert tuple(len(tokenizer.encode(line)) for line in lines) == shape


def test_couplets_have_the_shapes_asked_for(tamil_checkpoint):
    model, tokenizer, _ = training.load_checkpoint(tamil_checkpoint)
    shapes = [(12, 9), (15, 11), (12, 9)]
    couplets = tamil_generation.write_couplets(model, tokenizer, shapes, settle(1.0, steps=5), seeded())
    for couplet, (first, second) in zip(couplets, shapes, strict=True):
        ids = tokenizer.encode(couplet)
        assert len(ids) == first + 1 + second and ids[first] == tokenizer.id_of["\n"] and couplet.count("\n") == 1
    assert couplets[0] != couplets[2]


def test_shapes_are_those_of_the_couplets_drawn():
    tokenizer = tensors.Tokenizer(tamil_training.make_units("", "letters"))
    drawn = tamil_generation.draw_couplets(COUPLETS, 200, seeded())
    assert len(drawn) == 200 and 60 < drawn.count(COUPLETS[0]) < 140 and set(drawn) == set(COUPLETS)
    [(first, second)] = tamil_generation.line_lengths(tokenizer, COUPLETS[:1])
    assert (first, second) == tuple(len(re.findall(f"{tamil.LETTER}|.", line)) for line in COUPLETS[0].split("\n"))


def write(checkpoint, *flags):
    """The text that the script writes."""
    code, out, err = run_script("09_generate_tamil.py", "--checkpoint", checkpoint, *flags)
    assert code == 0, err
    return out


@pytest.mark.parametrize("kural", [False, True])
def test_every_flag_reaches_the_sampler(tamil_checkpoint, one_shape, asked, kural):
    kind = ["--kural", "--data", one_shape] if kural else ["--len", 30]
    flags = [*kind, "--seed", 1]
    write(tamil_checkpoint, *flags, "--temp", 0.3, "--topk", 7, "--order", "margin", "--steps", 4)
    write(tamil_checkpoint, *flags)
    write(tamil_checkpoint, *flags, "--steps", 3)
    masks = asked[0]["masks"]
    assert asked == [
        dict(steps=4, masks=masks, temperature=0.3, top_k=7, order="margin"),
        dict(steps=masks, masks=masks, temperature=0.8, top_k=None, order="certainty"),
        dict(steps=3, masks=masks, temperature=0.8, top_k=None, order="random"),
    ]


@pytest.mark.parametrize("kural", [False, True])
def test_the_flags_do_what_they_say(tamil_checkpoint, one_shape, kural):
    kind = ["--kural", "--data", one_shape] if kural else ["--len", 30]
    text = lambda seed, *flags: write(tamil_checkpoint, *kind, "--seed", seed, *flags)  # noqa: E731
    in_a_row = ["--order", "left to right"]
    greedy = text(1, "--temp", 0, *in_a_row)
    assert greedy == text(2, "--temp", 0, *in_a_row) == text(3, "--topk", 1, *in_a_row)  # nothing is left to chance
    drawn = text(1, *in_a_row)
    assert drawn == text(1, *in_a_row) and drawn != text(2, *in_a_row) and drawn != greedy
    assert text(1, "--order", "margin") != drawn and text(1, "--steps", 2, *in_a_row) != drawn
    texts = text(1, "--num", 3).removesuffix("\n")
    assert not kural or [piece.count("\n") for piece in texts.split("\n\n")] == [1, 1, 1]


def test_verse_has_the_length_and_the_prompt_asked_for(tamil_checkpoint):
    _, tokenizer, _ = training.load_checkpoint(tamil_checkpoint)
    code, out, err = run_script("09_generate_tamil.py", "--checkpoint", tamil_checkpoint, "--seed", 1, "--len", 30,
                                "--prompt", "அகர ", "--ending", " அகர", "--num", 2)  # fmt: skip
    assert code == 0 and err == "" and out.startswith("அகர ") and out.endswith(" அகர\n")
    assert len(tokenizer.encode(out.removesuffix("\n"))) == 30 + 2 + 30
    code, out, err = run_script("09_generate_tamil.py", "--checkpoint", tamil_checkpoint)
    assert out.strip("\n") + "\n" == out and re.fullmatch(r"seed \d+\n", err)
    assert write(tamil_checkpoint, "--seed", err.split()[1]) == out


# ---- The score
def test_score_of_known_couplets():
    score = tamil_generation.Score(COUPLETS[0])
    assert score.known_words(COUPLETS[0]) == 1 and score.known_words("அகர குகர முதல\nகுகர") == 0.5
    assert tamil_generation.ill_formed_share("கா ா\nகி") == pytest.approx(1 / 3)
    assert score.overlap("பகர முதல எழுபது\nகுகர") == len(["க", "ர", " ", "மு", "த", "ல", " ", "எ", "ழு"])


def test_an_average_is_one_over_groups():
    groups = [[COUPLETS[0], "க\nக", "க\nக"], [COUPLETS[0]] * 3]  # a third of them rhyme, and all of them
    assert tamil_generation.average(tamil_generation.rhymes, groups) == pytest.approx((2 / 3, 1 / 3))


def test_couplets_for_the_score_come_from_their_own_part(tmp_path):
    path = tmp_path / "numbered.txt"
    path.write_text("\n\n".join(f"{COUPLETS[i % 2]} {i}" for i in range(100, 200)), encoding="utf-8")
    tokenizer = tensors.Tokenizer(tamil_training.make_units("", "letters"))
    text, known, heldout = tamil_generation.read_couplets(tokenizer, path)
    poems = tamil_training.split_poems_for_training(path.read_text(encoding="utf-8"))
    assert (known, heldout) == poems and text == "\n\n".join(known) and len(heldout) == 10


def test_the_score(tamil_checkpoint, verse, asked):  # noqa: F811
    flags = ["--score", "--seed", 1, "--steps", 1, "--data", verse, "--temp", 0.3, "--topk", 9, "--order", "margin"]
    out = write(tamil_checkpoint, *flags)
    for part in ("generated (40)", "real, held out (2)", "| metre, as spoken |",
                 "| the model's bound, bits per couplet (of the first shuffle) |"):  # fmt: skip
        assert part in out, out
    assert "| ill-formed letters | 0.0% +- 0.0% | 0.0% +- 0.0% | 0.0% +- 0.0% |" in out  # letters, by construction
    assert "| metre, as spoken | 0.0% +- 0.0% | 100.0% +- 0.0% |" in out
    assert "| known words | 0.0% +- 0.0% | 100.0% +- 0.0% | 100.0% +- 0.0% |" in out
    cells = out.strip().splitlines()[-1].split(" | ")[2:5]
    model, tokenizer, _ = training.load_checkpoint(tamil_checkpoint)
    _, _, real = tamil_generation.read_couplets(tokenizer, verse)
    assert cells[0].startswith(f"{tamil_training.bits_per_couplet(model, tokenizer, real).mean():.1f} +- ")
    assert {(a["steps"], a["temperature"], a["top_k"], a["order"]) for a in asked} == {(1, 0.3, 9, "margin")}
    assert "generated (41)" in write(tamil_checkpoint, *flags, "--num", 41)


def test_a_short_score_takes_some_of_the_held_out_couplets(tamil_checkpoint, capsys):
    model, tokenizer, _ = training.load_checkpoint(tamil_checkpoint)
    wordless = ["க\nகா"] * 9 + [COUPLETS[0]] * 11  # evenly spread, 4 of 20 are 0, 5, 10 and 15, two of each kind
    write = partial(tamil_generation.write_couplets, model, tokenizer, sampling_for=settle(0.8), generator=seeded())
    tamil_generation.print_score(model, tokenizer, (POEM, COUPLETS, wordless), 4, write, seeded())
    out = capsys.readouterr().out
    assert "generated (4) | real, held out (4)" in out
    assert "| rhyme | " in out and "| 50.0% +- " in out.split("| rhyme |")[1].split("\n")[0]


def test_a_text_without_couplets_is_refused(tamil_checkpoint, tmp_path):
    (tmp_path / "prose.txt").write_text("\n\n".join(["அகர முதல"] * 30), encoding="utf-8")
    flags = ["--checkpoint", tamil_checkpoint, "--seed", 1, "--data", tmp_path / "prose.txt"]
    assert_refused(run_script("09_generate_tamil.py", "--kural", *flags), 1, "couplets")


@pytest.mark.parametrize(
    "flags, status, word",
    [(["--prompt", "Rose"], 1, "'R' at position 1"),
     (["--len", "10000000000"], 2, "--len"),
     (["--kural", "--prompt", "அகர"], 2, "--prompt"), (["--score", "--len", "50"], 2, "--len"),
     (["--len", "1", "--prompt", "அகர"], 1, "--len 1"), (["--kural", "--score"], 2, "--score"),
     (["--data", "verse.txt"], 2, "--data"), (["--order", "sideways"], 2, "--order"), (["--topk", "999"], 2, "--topk"),
     (["--kural", "--data", "nowhere.txt"], 1, "nowhere.txt"), (["--num", "1000000"], 2, "--num")],
)  # fmt: skip
def test_bad_input_is_one_sentence(tamil_checkpoint, flags, status, word):
    flags = ["--checkpoint", tamil_checkpoint, "--seed", 1, *flags]
    assert_refused(run_script("09_generate_tamil.py", *flags), status, word)


def test_a_model_of_english_is_refused(small_checkpoint, verse):  # noqa: F811
    flags = ["--checkpoint", small_checkpoint, "--seed", 1, "--data", verse]
    for kind in ("--kural", "--score"):
        assert_refused(run_script("09_generate_tamil.py", *flags, kind), 1, "is it one of Tamil")


def test_the_shipped_model_writes_well_formed_letters_from_any_folder(tmp_path):
    code, out, err = run_script("09_generate_tamil.py", "--seed", 1, "--steps", 16, "--num", 2, cwd=tmp_path)
    assert code == 0 and not tamil.ill_formed(out), err
    assert sum(len(tamil_generation.letters_of(word)) for word in out.split()) > 100


def test_most_real_couplets_scan_and_few_with_their_words_shuffled():
    """By the texts themselves: of 1,330 at most 50 are rejected, and of their shuffles hardly one is taken."""
    path = ROOT / "data" / "thirukkural.json"
    if not path.exists():
        pytest.skip("data/thirukkural.json is not there")
    couplets = [tamil.mend_poem(couplet)[0] for couplet in tamil.read_work(tamil.WORKS["thirukkural"])]
    assert len(couplets) == 1330
    source = random.Random(0)
    assert sum(not tamil_generation.spoken_metre(couplet) for couplet in couplets) <= 50
    shuffled = [tamil_generation.shuffle_words(couplet, source) for couplet in couplets]
    assert sum(map(tamil_generation.spoken_metre, shuffled)) <= 0.012 * len(couplets)
