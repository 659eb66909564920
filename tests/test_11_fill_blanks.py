"""Lesson 11: what was given stays, every blank is seen from both sides, lengths are found, and the figures are right."""

import itertools
import os
import random
import re
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, VERSE, assert_refused, random_gpt, run_script

lesson1, diffusion, blanks = import_module("01_tensors"), import_module("04_diffusion"), import_module("11_fill_blanks")
Blank = blanks.Blank


def test_parts_of_a_text():
    tokenizer = lesson1.Tokenizer(["a", "b", "{", "}", "_", "\\"])
    parts = blanks.read_blanks(r"ab___{12}a{3-15}\_\{\}\b_", tokenizer)
    assert parts == [[0, 1], Blank(3, 3), Blank(12, 12), [0], Blank(3, 15), [4], [2], [3], [5], [1], Blank(1, 1)]
    laid = blanks.lay_out(parts, [3, 12, 4, 1], mask_id=6)
    assert laid.tolist() == [0, 1] + [6] * 15 + [0] + [6] * 4 + [4, 2, 3, 5, 1] + [6]


@pytest.mark.parametrize(
    "text, words",
    [("no blank", ["{12}"]), ("a {0}", ["{0}", "position 3"]), ("a {9-3}", ["{9-3}", "position 3"]), ("ab_ {x}", ["the {", "position 5"]),
     ("_ }", ["the }", "position 3"]), ("ab __ é", ["'é'", "position 7"]), ("", ["no blank"])],
)  # fmt: skip
def test_wrong_blanks_are_named(text, words):
    with pytest.raises(lesson1.UserError) as refused:
        blanks.read_blanks(text, lesson1.Tokenizer(list("abnoklx ")))
    assert all(word in str(refused.value) for word in words)


class Watching:
    """A model that remembers what it was shown, and finds every letter equally likely."""

    def __init__(self, V, context):
        self.config, self.seen = SimpleNamespace(vocab_size=V, context=context), []
        self.head = SimpleNamespace(weight=torch.zeros(1))  # tells the device

    def __call__(self, tokens):
        self.seen.append(tokens)
        assert tokens.max() <= self.config.vocab_size and tokens.shape[1] <= self.config.context
        return torch.zeros(*tokens.shape, self.config.vocab_size)


@pytest.mark.parametrize("seed", range(20))
def test_what_was_given_never_changes_and_no_mask_is_left(seed):
    source = random.Random(seed)
    V, context, length, steps = 5, 16, source.randint(1, 60), source.randint(1, 40)
    model, ids = Watching(V, context), [source.randrange(V) for _ in range(length)]
    masked = torch.zeros(length, dtype=torch.bool)
    for _ in range(source.randint(1, 6)):
        start = source.randrange(length)
        masked[start : start + source.randint(1, 4)] = True
    masked[::9] = False  # no blank is longer than the context
    masked[source.randrange(length)] = True
    canvas = torch.tensor([ids, ids]).masked_fill(masked, V)
    frames = []
    settings = dict(order=source.choice(diffusion.ORDERS), temperature=source.choice([0, 0.5, 1.0, 3.0]), top_k=source.choice([None, 1, 3]))
    out = blanks.fill(model, canvas, steps, on_step=frames.append, generator=torch.Generator().manual_seed(seed), **settings)
    assert torch.equal(out[:, ~masked], canvas[:, ~masked]) and out.max() < V
    assert all(torch.equal(frame[:, ~masked], canvas[:, ~masked]) and frame.max() <= V for frame in frames)
    groups = blanks.group_blanks(masked.tolist(), context)
    assert len(model.seen) <= max(steps, len(groups)) + len(groups) and len(model.seen) <= masked.sum()


@pytest.mark.parametrize("steps, passes", [(1, 1), (3, 3), (7, 7), (100, 7)])
def test_number_of_passes(steps, passes):
    model = Watching(5, 32)
    canvas = torch.zeros(1, 20, dtype=torch.long)
    canvas[:, 3:10] = 5
    blanks.fill(model, canvas, steps)
    assert len(model.seen) == passes


def test_a_long_text_shows_every_blank_both_of_its_sides_and_later_blanks_masked():
    V, context = 200, 16
    model, canvas = Watching(V, context), torch.arange(100)[None]
    canvas[:, 0:2] = canvas[:, 40:43] = canvas[:, 46:48] = canvas[:, 99:] = V
    blanks.fill(model, canvas, 1000, temperature=0)
    windows = [seen[0].tolist() for seen in model.seen]
    assert [window.count(V) for window in windows] == [2, 1, 5, 4, 3, 2, 1, 1]
    assert windows[0] == [V, V, *range(2, 16)]
    assert windows[2][:4] == [36, 37, 38, 39] and windows[2][-4:] == [48, 49, 50, 51]
    assert windows[-1] == [*range(84, 99), V]
    far_apart = torch.arange(100)[None]
    far_apart[:, 40:44] = far_apart[:, 51:55] = V
    model.seen.clear()
    blanks.fill(model, far_apart, 1000, temperature=0)
    assert model.seen[0][0].tolist() == [*range(34, 40), *[V] * 4, *range(44, 50)], model.seen[0]


def test_groups_never_exceed_the_context():
    assert blanks.group_blanks([True, False, True, True], 4) == [(0, 4)]
    assert blanks.group_blanks([False] * 10 + [True] * 4, 4) == [(10, 14)]
    assert blanks.group_blanks([True, False, True, False, True] + [False] * 9, 8) == [(0, 3), (4, 5)]
    with pytest.raises(lesson1.UserError, match="5 letters"):
        blanks.group_blanks([False, False] + [True] * 5, 4)


class Clock:
    """Knows that the letters go round, 0, 1, ..., V - 1, 0, ..., a letter a place: it infers a hidden letter from any visible one,
    through masks, and so is the exact denoiser of a world in which only one length of a hole is possible, modulo V."""

    def __init__(self, V, context=64, sure=0.9):
        self.config, self.sure = SimpleNamespace(vocab_size=V, context=context), sure
        self.head = SimpleNamespace(weight=torch.zeros(1))

    def __call__(self, tokens):
        V, L = self.config.vocab_size, tokens.shape[1]
        p = torch.full((*tokens.shape, V), 1.0)
        places = torch.arange(L)
        for b, i in itertools.product(range(len(tokens)), range(L)):
            visible = tokens[b] != V
            visible[i] = False
            if visible.any():
                j = (places[visible] - i).abs().argmin()  # the nearest visible letter
                place, letter = places[visible][j], tokens[b][visible][j]
                p[b, i] = (1 - self.sure) / (V - 1)
                p[b, i, (letter + i - place) % V] = self.sure
        return p.log()


@pytest.mark.parametrize("length", [1, 2, 5, 7])
def test_a_planted_length_is_found(length, monkeypatch):
    monkeypatch.setattr(blanks, "DRAWS", 16)
    model = Clock(V=11)
    text = torch.arange(40) % 11
    parts = [text[:12].tolist(), Blank(1, 8), text[12 + length : 24].tolist(), Blank(2, 2), text[26:30].tolist()]
    assert blanks.find_lengths(model, parts) == [length, 2]


def test_scores_of_lengths_are_of_the_same_letters(monkeypatch):
    monkeypatch.setattr(blanks, "DRAWS", 100)
    V, model = 3, Watching(3, 64)
    scores = blanks.score_lengths(model, torch.zeros(5, dtype=torch.long), torch.tensor([1, V, 2]), Blank(2, 4))
    assert scores.shape == (3, 100)
    torch.testing.assert_close(scores, torch.full((3, 100), 7 * torch.tensor(3.0).log().item()))  # 7 known letters, ln 3 each
    with pytest.raises(lesson1.UserError, match="no letter beside"):
        blanks.score_lengths(model, torch.tensor([]).long(), torch.tensor([V]), Blank(1, 2))


def test_bound_on_a_part_is_exact_for_the_exact_denoiser():
    generator = torch.Generator().manual_seed(0)
    p = torch.softmax(1.5 * torch.randn(3**4, generator=generator), dim=0)
    world = diffusion.ToyWorld(p, V=3, L=4)
    for text in (world.texts[5], world.texts[60]):
        for places in ([1], [0, 2], [0, 1, 2, 3]):
            rest = [i for i in range(4) if i not in places]
            given = (world.texts[:, rest] == text[rest]).all(dim=1)
            truth = -(p[(world.texts == text).all(dim=1)].sum() / p[given].sum()).log()
            rows = text.expand(20_000, -1)
            estimates = diffusion.bound_on_part(world, rows, torch.tensor(places), generator)
            error = estimates.std() / len(rows) ** 0.5
            assert abs(estimates.mean() - truth) < 4 * error + 1e-5


def test_words_at_a_seam():
    judge = SimpleNamespace(words={"the", "cat"})
    assert blanks.real_words(judge, ["the cat", "the cot", "the  x"], 4).tolist() == [1, 0]
    assert blanks.real_words(judge, ["the cat"], 3).tolist() == [1]


def test_every_third_word_of_a_couplet():
    lesson8 = import_module("08_train_tamil")
    tokenizer = lesson1.Tokenizer(lesson8.make_units("", "letters"))
    couplet = "அகர முதல எழுத்தெல்லாம் ஆதி\nபகவன் முதற்றே உலகு"
    ids = tokenizer.encode(couplet)
    words = [tokenizer.decode(ids[start:end]) for start, end in blanks.third_words(tokenizer, couplet)]
    assert words == ["எழுத்தெல்லாம்", "முதற்றே"]


def test_filling_on_the_command_line(small_checkpoint, tmp_path):
    flags = ["--checkpoint", small_checkpoint, "--seed", 3]
    code, out, err = run_script("11_fill_blanks.py", "Shall I ___ thee to a {2-4} day?", *flags, "--num", 2)
    assert code == 0, err
    first, second = out.rstrip("\n").split("\n\n---\n\n")
    pattern = r"(?s)Shall I .{3} thee to a .{2,4} day\?"
    assert re.fullmatch(pattern, first) and re.fullmatch(pattern, second) and len(first) == len(second)
    assert re.search(r"blank 2: [234] letters fit best; .*: \d by \d+\.\d\d \+- \d", err) and "\x1b" not in out
    path = tmp_path / "text.txt"
    path.write_text("Shall ____\nthee\n", encoding="utf-8")
    from_file = run_script("11_fill_blanks.py", "--file", path, *flags)
    with path.open() as file:
        piped = run_script("11_fill_blanks.py", *flags, stdin=file)
    wrong = tmp_path / "latin1.txt"
    wrong.write_bytes("Shall \u00e9 _".encode("latin1"))
    with wrong.open() as file:
        assert_refused(run_script("11_fill_blanks.py", *flags, stdin=file), 1, "position 7")
    assert from_file[0] == 0 and from_file[1] == piped[1] and re.fullmatch(r"(?s)Shall .{4}\nthee\n", piped[1])


def test_a_text_longer_than_the_context_and_one_of_blanks_alone(small_checkpoint):
    text = (VERSE * 3).replace("lovely", "______")
    code, out, err = run_script("11_fill_blanks.py", text, "--checkpoint", small_checkpoint, "--seed", 1)
    assert code == 0 and re.fullmatch(re.escape(text).replace("______", "(?s:.{6})") + "\n", out), err
    code, out, err = run_script("11_fill_blanks.py", "{30}", "--checkpoint", small_checkpoint, "--seed", 1, "--steps", 4)
    assert code == 0 and len(out) == 31, err


def test_filled_letters_stand_out_in_a_terminal(small_checkpoint):
    pty = pytest.importorskip("pty")  # not on Windows
    command = [sys.executable, str(ROOT / "11_fill_blanks.py"), "Sh_ll", "--checkpoint", str(small_checkpoint), "--seed", "1"]
    for extra, marked in ({}, True), ({"NO_COLOR": "1"}, False):
        ours, theirs = pty.openpty()
        environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | extra
        subprocess.run(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment, timeout=100)
        os.close(theirs)
        drawn = os.read(ours, 10_000).decode()
        assert bool(re.fullmatch("Sh\x1b\\[1;32m.\x1b\\[0mll\r\n", drawn)) == marked and ("\x1b" in drawn) == marked


@pytest.mark.parametrize(
    "text, words",
    [("Shall", ["no blank"]), ("{0}", ["{0}"]), ("{40}", ["40", "32"]), ("a {3-40}", ["40", "32"]), ("a {1-3} l {999999}", ["999999", "32"]),
     ("a {3-31}", ["no letter beside"]), ("é_", ["'é'"])],
)  # fmt: skip
def test_bad_texts_are_one_sentence(small_model, text, words):
    with pytest.raises(lesson1.UserError) as refused:
        blanks.fill_text(*small_model, text, SimpleNamespace(num=1, steps=None))
    assert all(word in str(refused.value) for word in words)


def test_bad_flags_are_one_sentence(small_checkpoint, gpt_checkpoint, text_file):
    assert_refused(run_script("11_fill_blanks.py", "a_", "--file", text_file), 2, "not both")
    assert_refused(run_script("11_fill_blanks.py", "a_", "--score"), 2, "--score")
    assert_refused(run_script("11_fill_blanks.py", "a_", "--watch"), 2, "--watch")
    assert_refused(run_script("11_fill_blanks.py", "--couplets", "--watch"), 2, "--watch")
    assert_refused(run_script("11_fill_blanks.py", "--file", "nowhere.txt", "--checkpoint", small_checkpoint), 1, "nowhere.txt")
    assert_refused(run_script("11_fill_blanks.py", "a_", "--checkpoint", gpt_checkpoint), 1, "is a GPT;")


def test_the_walk(tmp_path):
    code, out, err = run_script("11_fill_blanks.py", "--seed", 1, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert code == 0 and out.count("checked: ") == 3, err


def test_the_whole_measurement(small_checkpoint, gpt_checkpoint, text_file, monkeypatch, capsys):
    for name, value in dict(WINDOWS=4, SIZES=(1, 4, 8), DRAWS=8, RANGE=Blank(1, 3)).items():
        monkeypatch.setattr(blanks, name, value)
    flags = ["--score", "--checkpoint", small_checkpoint, "--gpt", gpt_checkpoint, "--data", text_file, "--seed", 1]
    monkeypatch.setattr("sys.argv", ["11_fill_blanks.py", *map(str, flags)])
    blanks.main()
    out = capsys.readouterr().out
    for row in ("| dLLM | ", "| GPT | ", "| n-gram judge | ", "| GPT minus dLLM | ", "| GPT, best of 32 | ", "| dLLM minus GPT, best of 32 | ", "| dLLM at temperature 0 | ", "| dLLM, over several orders | ", "| the text itself | 100.0% +- 0.0%", "| found | "):
        assert row in out, row
    assert (ROOT / out.strip().splitlines()[-1]).read_bytes().startswith(b"\x89PNG")


def test_the_gpt_chooses_the_filling_after_which_the_right_side_is_likeliest(monkeypatch):
    monkeypatch.setattr(blanks, "CONTINUATIONS", 40)
    V, gpt = 4, random_gpt(4, 12, std=0.6)
    generator = torch.Generator().manual_seed(0)
    windows = torch.randint(V, (3, 12), generator=generator)
    args = SimpleNamespace(temp=1.0, topk=None)
    first, best = blanks.gpt_fillings(SimpleNamespace(gpt=gpt), windows, 5, 6, args, generator)
    lesson7 = import_module("07_train_gpt")
    for window, chosen in zip(windows, best):  # with 40 draws of one of 4 letters, the likely ones are among them
        assert torch.equal(chosen[:5], window[:5]) and torch.equal(chosen[6:], window[6:])
        rows = torch.stack([torch.cat([window[:5], torch.tensor([letter]), window[6:]]) for letter in range(V)])
        nats = lesson7.token_nats(gpt, rows)[:, 6:].sum(dim=1)
        own = lesson7.token_nats(gpt, chosen[None])[:, 6:].sum()
        assert own <= nats.sort().values[1] + 1e-4
    assert torch.equal(first[:, :5], windows[:, :5])
