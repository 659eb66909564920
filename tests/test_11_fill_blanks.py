"""Lesson 11: what was given stays, every blank is seen from both sides, lengths are found, the figures are right."""

import io
import itertools
import os
import random
import re
import socket
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from importlib import import_module
from types import SimpleNamespace

import pytest
from conftest import VERSE, assert_refused, run_script

import torch

tensors, diffusion, generation = (
    import_module("01_tensors"),
    import_module("04_diffusion"),
    import_module("06_generate"),
)
gpt, comparison = import_module("07_train_gpt"), import_module("10_compare")
blanks = import_module("11_fill_blanks")
Blank, UserError = blanks.Blank, blanks.UserError


def settle(letters, temperature=0.8, top_k=generation.ALL, **settings):
    """The Sampling of lesson 11, which by default writes a letter a pass and takes none back."""
    return generation.Sampling.for_letters(
        letters, temperature, top_k, **dict(revise=0, letters_a_pass=1) | settings
    )  # fmt: skip


def test_parts_of_a_text():
    tokenizer = tensors.Tokenizer(["a", "b", "{", "}", "_", "\\"])
    parts = blanks.read_blanks(r"ab___{12}a{3-15}\_\{\}\b_", tokenizer)
    assert parts == [[0, 1], Blank(3, 3), Blank(12, 12), [0], Blank(3, 15), [4], [2], [3], [5], [1], Blank(1, 1)]
    laid = blanks.lay_out(parts, [3, 12, 4, 1], mask_id=6)
    assert laid.tolist() == [0, 1] + [6] * 15 + [0] + [6] * 4 + [4, 2, 3, 5, 1] + [6]


@pytest.mark.parametrize(
    "text, words",
    [
        ("no blank", ["{12}"]),
        ("a {0}", ["{0}", "position 3"]),
        ("a {9-3}", ["{9-3}", "position 3"]),
        ("ab_ {x}", ["the {", "position 5"]),
        ("_ }", ["the }", "position 3"]),
        ("ab __ é", ["'é'", "position 7"]),
        ("", ["no blank"]),
    ],
)
def test_wrong_blanks_are_named(text, words):
    with pytest.raises(UserError) as refused:
        blanks.read_blanks(text, tensors.Tokenizer(list("abnoklx ")))
    assert all(word in str(refused.value) for word in words)


class Watching:
    """A model that remembers what it was shown, and finds every letter equally likely."""

    def __init__(self, V, context):
        self.config, self.seen = SimpleNamespace(vocab_size=V, context=context), []
        self.head = SimpleNamespace(weight=torch.zeros(1))  # tells the device

    def __call__(self, tokens):
        self.seen.append(tokens.clone())
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
    temperature, top_k = source.choice([0, 0.5, 1.0, 3.0]), source.choice([None, 1, 3])
    order, letters = source.choice(diffusion.ORDERS), int(masked.sum())
    sampling = settle(letters, temperature, top_k or generation.ALL, steps=steps, order=order)
    out = blanks.fill(model, canvas, sampling, torch.Generator().manual_seed(seed), frames.append)
    assert torch.equal(out[:, ~masked], canvas[:, ~masked]) and out.max() < V
    assert all(torch.equal(frame[:, ~masked], canvas[:, ~masked]) and frame.max() <= V for frame in frames)
    groups = blanks.group_blanks(masked.tolist(), context)
    assert len(model.seen) <= max(steps, len(groups)) + len(groups) and len(model.seen) <= masked.sum()


@pytest.mark.parametrize("steps, passes", [(1, 1), (3, 3), (7, 7), (100, 7)])
def test_number_of_passes(steps, passes):
    model = Watching(5, 32)
    canvas = torch.zeros(1, 20, dtype=torch.long)
    canvas[:, 3:10] = 5
    blanks.fill(model, canvas, settle(7, steps=steps))
    assert len(model.seen) == passes


def test_a_long_text_shows_every_blank_both_of_its_sides_and_later_blanks_masked():
    V, context = 200, 16
    model, canvas = Watching(V, context), torch.arange(100)[None]
    canvas[:, 0:2] = canvas[:, 40:43] = canvas[:, 46:48] = canvas[:, 99:] = V
    blanks.fill(model, canvas, settle(8, 0, steps=1000))
    windows = [seen[0].tolist() for seen in model.seen]
    assert [window.count(V) for window in windows] == [2, 1, 5, 4, 3, 2, 1, 1]
    assert windows[0] == [V, V, *range(2, 16)]
    assert windows[2][:4] == [36, 37, 38, 39] and windows[2][-4:] == [48, 49, 50, 51]
    assert windows[-1] == [*range(84, 99), V]
    far_apart = torch.arange(100)[None]
    far_apart[:, 40:44] = far_apart[:, 51:55] = V
    model.seen.clear()
    blanks.fill(model, far_apart, settle(8, 0, steps=1000))
    assert model.seen[0][0].tolist() == [*range(34, 40), *[V] * 4, *range(44, 50)], model.seen[0]


def test_groups_never_exceed_the_context():
    assert blanks.group_blanks([True, False, True, True], 4) == [(0, 4)]
    assert blanks.group_blanks([False] * 10 + [True] * 4, 4) == [(10, 14)]
    assert blanks.group_blanks([True, False, True, False, True] + [False] * 9, 8) == [(0, 3), (4, 5)]
    with pytest.raises(UserError, match="5 letters"):
        blanks.group_blanks([False, False] + [True] * 5, 4)


class Clock:
    """Knows that the letters go round, 0, 1, ..., V - 1, 0, ..., a letter a place: it infers a hidden letter from any
    visible one, through masks, and so is the exact denoiser of a world in which only one length of a hole is possible,
    modulo V."""

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
    torch.testing.assert_close(
        scores, torch.full((3, 100), 7 * torch.tensor(3.0).log().item())
    )  # 7 known letters, ln 3 each
    with pytest.raises(UserError, match="no letter beside"):
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


def test_exact_nats_of_a_part():
    """In the toy world they are the true ones; in any world those of the steps, one by one."""
    generator = torch.Generator().manual_seed(0)
    p = torch.softmax(1.5 * torch.randn(3**4, generator=generator), dim=0)
    world = diffusion.ToyWorld(p, V=3, L=4)
    for places in ([1], [0, 2], [0, 1, 2, 3]):
        rest = [i for i in range(4) if i not in places]
        agree = (world.texts[:, None, rest] == world.texts[None, :, rest]).all(dim=2)  # [81, 81]
        truth = -(p / (agree * p).sum(dim=1)).log()
        for order in diffusion.EXACT_ORDERS:
            nats = diffusion.exact_nats(world, world.texts, order, len(places), torch.tensor(places))
            torch.testing.assert_close(nats * len(places), truth, atol=1e-4, rtol=0)
    world.table = torch.randn(world.table.shape, generator=generator)
    for order in diffusion.EXACT_ORDERS:
        whole = diffusion.exact_nats(world, world.texts, order, 4)
        torch.testing.assert_close(diffusion.exact_nats(world, world.texts, order, 4, torch.arange(4)), whole)
    text, canvas, total = torch.tensor([[2, 0, 1, 2]]), torch.tensor([[2, 3, 3, 2]]), 0.0
    for place in (1, 2):
        total -= torch.log_softmax(world(canvas)[0, place], dim=-1)[text[0, place]]
        canvas[0, place] = text[0, place]
    part = diffusion.exact_nats(world, text, "left to right", 2, torch.tensor([1, 2]))
    torch.testing.assert_close(part * 2, total[None])


def test_what_the_right_side_is_worth(small_checkpoint, gpt_checkpoint, monkeypatch, capsys):
    """The table's rows are of the right models, exact, and their differences of the same windows."""
    monkeypatch.setattr(blanks, "SIZES", (1, 6))
    writers = comparison.Writers(str(small_checkpoint), str(gpt_checkpoint), "cpu")
    windows = torch.randint(writers.tokenizer.vocab_size, (5, 32), generator=torch.Generator().manual_seed(0))
    blanks.show_worth(writers, windows)
    rows = [line.split(" | ") for line in capsys.readouterr().out.strip().splitlines()]
    assert rows[0][1:] == ["blank of 1", "blank of 6 |"] and [row[0] for row in rows[2:]] == [
        "| GPT", "| dLLM, certainty", "| GPT minus dLLM"
    ]  # fmt: skip
    for column, (start, end) in enumerate(((15, 16), (13, 19)), 1):
        by_gpt = gpt.token_nats(writers.gpt, windows)[:, start:end].mean(dim=1)
        places = torch.arange(start, end)
        by_dllm = diffusion.exact_nats(writers.dllm, windows, "certainty", len(places), places)
        for row, nats in zip(rows[2:], (by_gpt, by_dllm, by_gpt - by_dllm)):
            assert row[column].removesuffix(" |") == f"{nats.mean():.2f} +- {nats.std() / 5**0.5:.2f}"


@contextmanager
def standard_input(path):
    """What is called inside has this file, or the file of this number, as its standard input."""
    before, stdin = os.dup(0), sys.stdin
    with open(path, "rb") as file:
        os.dup2(file.fileno(), 0)
    try:
        with open(0, encoding="utf-8", closefd=False) as sys.stdin:
            yield
    finally:
        sys.stdin = stdin
        os.dup2(before, 0)
        os.close(before)


def test_filling_on_the_command_line(small_checkpoint, tmp_path):
    flags = ["--checkpoint", small_checkpoint, "--seed", 3]
    code, out, err = run_script("11_fill_blanks.py", "Shall I ___ thee to a {2-4} day?", *flags, "--num", 2)
    assert code == 0, err
    first, second = out.rstrip("\n").split("\n\n---\n\n")
    pattern = r"(?s)Shall I .{3} thee to a .{2,4} day\?"
    assert re.fullmatch(pattern, first) and re.fullmatch(pattern, second) and len(first) == len(second)
    assert re.search(r"blank 2: [234] letters fit best\. .*: \d by \d+\.\d\d \+- \d", err) and "\x1b" not in out
    path = tmp_path / "text.txt"
    path.write_text("Shall ____\nthee\n", encoding="utf-8")
    from_file = run_script("11_fill_blanks.py", "--file", path, *flags)
    with standard_input(path):
        piped = run_script("11_fill_blanks.py", *flags)
    wrong = tmp_path / "latin1.txt"
    wrong.write_bytes("Shall \u00e9 _".encode("latin1"))
    with standard_input(wrong):
        assert_refused(run_script("11_fill_blanks.py", *flags), 1, "position 7")
    pair = [end.detach() for end in socket.socketpair()]  # the pipes of Node are sockets
    for ours, theirs in (os.pipe(), pair):
        os.write(theirs, path.read_bytes())
        os.close(theirs)
        with standard_input(ours):
            code, out, err = run_script("11_fill_blanks.py", *flags)
        assert (code, out) == piped[:2] and err.startswith("reading the text from standard input\n")
    assert from_file[0] == 0 and from_file[1] == piped[1] and re.fullmatch(r"(?s)Shall .{4}\nthee\n", piped[1])


def test_what_was_given_stays_where_letters_are_taken_back(small_model):
    model, _ = small_model
    canvas = torch.randint(model.config.vocab_size, (3, 60), generator=torch.Generator().manual_seed(0))
    given, masked = canvas.clone(), torch.zeros(60, dtype=torch.bool)
    masked[20:31] = True
    canvas[:, masked] = model.config.vocab_size
    out = blanks.fill(model, canvas, settle(11, steps=9, revise=6), torch.Generator().manual_seed(1))
    assert torch.equal(out[:, ~masked], given[:, ~masked]) and out.max() < model.config.vocab_size


def test_a_text_longer_than_the_context_and_one_of_blanks_alone(small_checkpoint):
    text = (VERSE * 3).replace("lovely", "______")
    code, out, err = run_script("11_fill_blanks.py", text, "--checkpoint", small_checkpoint, "--seed", 1)
    assert code == 0 and re.fullmatch(re.escape(text).replace("______", "(?s:.{6})") + "\n", out), err
    code, out, err = run_script(
        "11_fill_blanks.py", "{30}", "--checkpoint", small_checkpoint, "--seed", 1, "--steps", 4
    )
    assert code == 0 and len(out) == 31, err


@pytest.mark.parametrize(
    "flags, settings",
    [
        ([], {}),
        (["--temp", 3], dict(temperature=3.0)),
        (["--temp", 0], dict(temperature=0.0)),
        (["--topk", 2], dict(top_k=2)),
        (["--order", "confidence"], dict(order="confidence")),
        (["--order", "margin"], dict(order="margin")),
        (["--steps", 3], dict(steps=3)),
        (["--steps", 9, "--revise", 6], dict(steps=9, revise=6)),
        (["--num", 2], {}),
    ],
)
def test_every_setting_reaches_the_sampler(small_model, small_checkpoint, flags, settings):
    """The command fills as `fill` does with these settings; without them it would fill otherwise."""
    model, tokenizer = small_model
    text = "Shall I ____________ thee ______"
    canvas = torch.tensor([[model.config.vocab_size if c == "_" else tokenizer.id_of[c] for c in text]])
    num = 2 if "--num" in flags else 1

    def expected(**settings):
        tokens = blanks.fill(model, canvas.expand(num, -1), settle(18, **settings), torch.Generator().manual_seed(4))
        return "\n\n---\n\n".join(tokenizer.decode(row) for row in tokens) + "\n"

    code, out, err = run_script("11_fill_blanks.py", text, "--checkpoint", small_checkpoint, "--seed", 4, *flags)
    assert code == 0 and out == expected(**settings), err
    assert not settings or out != expected()


def in_terminal(monkeypatch, *flags, stdout=True, stderr=True):
    """(what a terminal shows, what goes elsewhere) of a call whose outputs are terminals, or else pipes."""
    pty = pytest.importorskip("pty")  # not on Windows
    ours, theirs = pty.openpty()
    monkeypatch.setattr("sys.argv", ["11_fill_blanks.py", *map(str, flags)])
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        elsewhere = io.StringIO()
        redirects = (
            redirect_stdout(terminal if stdout else elsewhere),
            redirect_stderr(terminal if stderr else elsewhere),
        )
        with redirects[0], redirects[1]:
            blanks.main()
        print("<end>", file=terminal, flush=True)  # lest there be nothing to read
        shown = b""
        while b"<end>" not in shown:
            shown += os.read(ours, 100_000)
    os.close(ours)
    return shown.decode().removesuffix("<end>\r\n"), elsewhere.getvalue()


def test_in_a_terminal_it_shows_itself_at_work_and_marks_what_it_filled(small_checkpoint, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    call = partial(in_terminal, monkeypatch, "Sh__l", "--checkpoint", small_checkpoint, "--seed", 1)
    marked = "Sh\x1b\\[1;32m.\x1b\\[0m\x1b\\[1;32m.\x1b\\[0ml\r\n"
    shown, _ = call()
    assert shown.startswith("Sh░░l") and shown.count("\x1b[1A\x1b[J") == 3  # two passes, and the end
    assert re.search(f"{marked}$", shown)
    assert re.fullmatch(marked, call("--quiet")[0])
    assert "░" not in call("--num", 2)[0]
    monkeypatch.setenv("NO_COLOR", "1")
    shown, other = call(stderr=False)
    assert re.fullmatch("Sh..l\r\n", shown) and other == ""
    shown, out = call("--watch", stdout=False)
    assert shown.startswith("Sh░░l") and re.fullmatch("Sh..l\n", out)
    shown, out = call(stdout=False)
    assert shown == "" and re.fullmatch("Sh..l\n", out)


@pytest.mark.parametrize(
    "text, words",
    [
        ("Shall", ["no blank"]),
        ("{0}", ["{0}"]),
        ("{40}", ["40", "32"]),
        ("a {3-40}", ["40", "32"]),
        ("a {1-3} l {999999}", ["999999", "32"]),
        ("a {3-31}", ["no letter beside"]),
        ("é_", ["'é'"]),
    ],
)
def test_bad_texts_are_one_sentence(small_model, text, words):
    with pytest.raises(UserError) as refused:
        blanks.fill_text(*small_model, text, settle)
    assert all(word in str(refused.value) for word in words)


def test_bad_flags_are_one_sentence(small_checkpoint, gpt_checkpoint, text_file):
    assert_refused(run_script("11_fill_blanks.py", "a_", "--file", text_file), 2, "not both")
    assert_refused(run_script("11_fill_blanks.py", "a_", "--watch"), 2, "--watch")
    assert_refused(run_script("11_fill_blanks.py", "a_", "--watch", "--quiet"), 2, "--quiet")
    assert_refused(
        run_script("11_fill_blanks.py", "--file", "nowhere.txt", "--checkpoint", small_checkpoint), 1, "nowhere.txt"
    )
    assert_refused(run_script("11_fill_blanks.py", "a_", "--checkpoint", gpt_checkpoint), 1, "is a GPT;")


def test_the_walk(monkeypatch, capsys, real_text):
    for name, value in dict(WINDOWS=4, SIZES=(1, 2), DRAWS=16).items():
        monkeypatch.setattr(blanks, name, value)
    monkeypatch.setattr("sys.argv", ["11_fill_blanks.py", "--seed", "1"])
    monkeypatch.setattr("sys.stdin", None)
    blanks.main()
    out = capsys.readouterr().out
    assert out.count("checked: ") == 3 and out.splitlines()[-1].startswith("| GPT minus dLLM | ")
