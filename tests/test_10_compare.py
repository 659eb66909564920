"""Lesson 10: the judge on texts with a known answer, the exact figures, and the whole comparison on two tiny models."""

import math
import re
import shutil
from importlib import import_module

import pytest
from conftest import VERSE, assert_refused, random_gpt, run_script, seeded

import torch

comparison, tensors = import_module("10_compare"), import_module("01_tensors")
LOG = "step,seconds,characters,lr,loss,heldout\n1,1.0,64,0.01,2.5,\n2,2.0,128,0.01,2.4,2.45\n"


def test_judge_worked_out_by_hand():
    judge = comparison.Judge("abab", 2, order=2)  # a: 2, b: 2; after a: b twice; after b: a once
    a = b = (2 + 2 * 0.5) / (4 + 2)  # four characters, two different ones, 1/V = 0.5 below
    after_a = (2 + 1 * b) / (2 + 1)
    after_b = (1 + 1 * a) / (1 + 1)
    assert judge.probability("", "a") == pytest.approx(a)
    assert judge.probability("a", "b") == pytest.approx(after_a)
    assert judge.probability("a", "a") == pytest.approx((0 + 1 * a) / 3)
    total = -sum(map(math.log, (a, after_a, b, after_b)))
    assert judge.nats(["ab", "ba"]) == pytest.approx(total / 4)


def test_judge_looks_at_the_five_characters_before():
    bits = torch.randint(2, (2000,), generator=seeded()).tolist()
    judge = comparison.Judge("".join("ab"[bit] for bit in bits), 2)
    p = [judge.probability("abbabab"[7 - length :], "a") for length in range(8)]
    assert len(set(p[:6])) == 6 and p[5] == p[6] == p[7]
    nats = judge.nats(["abbabaa"]) * 7 - judge.nats(["abbaba"]) * 6
    assert nats == pytest.approx(-math.log(judge.probability("bbaba", "a")))


@pytest.mark.parametrize("history", ["", "S", "Shall", "mmer'", "qqqqq", "t qqq", "xt tha"])
def test_judge_gives_probabilities_that_sum_to_one(history):
    judge = comparison.Judge(VERSE, len(set(VERSE)))
    p = [judge.probability(history, character) for character in sorted(set(VERSE))]
    assert sum(p) == pytest.approx(1) and min(p) > 0


def test_judge_finds_order_in_order_and_not_in_a_shuffle():
    judge = comparison.Judge(VERSE * 3, len(set(VERSE)))
    shuffled = "".join(VERSE[i] for i in torch.randperm(len(VERSE), generator=seeded()))
    assert judge.nats([VERSE]) < 0.5 < judge.nats([shuffled]) - 2


def test_known_words_distinct_grams_and_copies():
    judge = comparison.Judge("the cat sat on the mat. it's here", 30)
    assert judge.known_words(["the dog sat", "it's cat"]) == pytest.approx(4 / 5)
    assert judge.known_words(["... "]) == 0
    assert judge.distinct(["abcde", "abcde"]) == 2 / 4  # abcd and bcde, twice each
    assert judge.distinct(["aaaaaaa"]) == 1 / 4
    assert judge.longest_copy(["a cat sat up", "xx on the maxx"]) == len(" on the ma")
    assert judge.longest_copy(["QQQ"]) == 0


def test_a_word_keeps_its_vowel_signs():
    couplet = "அகர முதல எழுத்தெல்லாம் ஆதி\nபகவன் முதற்றே உலகு."
    words = ["அகர", "முதல", "எழுத்தெல்லாம்", "ஆதி", "பகவன்", "முதற்றே", "உலகு"]
    assert comparison.split_words(couplet) == words
    assert comparison.Judge(couplet, 30).known_words(["முதற்றே உலகு ஆகும், முதற்"]) == 2 / 4
    english = VERSE + " it's 1_000 (o'er) cafe\u0301, d\u00e9j\u00e0 -- 'tis"
    assert comparison.split_words(english) == re.findall(r"[\w'\u0301]+", english)


def test_errors_are_the_usual_formula_for_means():
    pieces = ["aaaa", "abab", "bbbb", "baba", "abba"]
    share_of_a = lambda pieces: sum(piece.count("a") for piece in pieces) / sum(map(len, pieces))  # noqa: E731
    values = [share_of_a([piece]) for piece in pieces]
    expected = torch.tensor(values).std().item() / math.sqrt(5)
    assert comparison.with_error(share_of_a, pieces) == pytest.approx((sum(values) / 5, expected))


def test_pieces_come_from_the_whole_of_the_text():
    windows = torch.arange(101)[:, None].expand(-1, 4)
    assert comparison.spread(windows, 5)[:, 0].tolist() == [0, 25, 50, 75, 100]
    with pytest.raises(comparison.UserError, match="--pieces 102"):
        comparison.spread(windows, 102)


def test_letters_a_pass_and_their_labels():
    of = lambda *settings: comparison.describe(comparison.letters_a_pass(*settings), settings[1])  # noqa: E731
    assert of(1, 128) == "dLLM, 1 a pass, certainty, 0.8" and of(4, 128) == "dLLM, 4 a pass, random, 0.8"
    assert of(3, 128, 1.0, "confidence", 5) == "dLLM, 3 a pass, confidence, 1.0, top-k 5"
    assert comparison.letters_a_pass(3, 128).steps == 43


@pytest.fixture
def writers(small_checkpoint, gpt_checkpoint):
    return comparison.Writers(str(small_checkpoint), str(gpt_checkpoint), "cpu")


def test_another_seed_another_text(writers):
    sampling = comparison.letters_a_pass(1, 32)
    for write, setting in ((writers.by_dllm, sampling), (writers.by_gpt, 1.0)):
        one, again, other = (write(setting, 2, 32, seed) for seed in (0, 0, 1))
        assert one == again != other
    assert writers.by_gpt(1.0, 2, 50, 0, cached=False) == writers.by_gpt(1.0, 2, 50, 0)


@torch.inference_mode()
def exact_by_hand(writers, windows):
    """{name: [N]} of the GPT and of left to right, for windows [N, L], a letter at a time."""
    V, L, figures = writers.tokenizer.vocab_size, windows.shape[1], {"GPT": 0, "dLLM, left to right": 0}
    for i in range(L):
        left_side = torch.cat([torch.full_like(windows[:, :1], V), windows[:, :i]], dim=1)
        masked = torch.where(torch.arange(L) < i, windows, V)
        for name, logits in zip(figures, (writers.gpt(left_side)[:, -1], writers.dllm(masked)[:, i])):  # [N, V]
            figures[name] -= torch.log_softmax(logits, dim=-1)[torch.arange(len(windows)), windows[:, i]] / L
    return figures


def test_exact_against_exact(writers, capsys, monkeypatch):
    """The table's figures are those of the right model on the right windows, the differences are of equal windows, and
    the bound stands apart."""
    monkeypatch.setattr(comparison, "AT_ONCE", 2)
    windows = torch.randint(writers.tokenizer.vocab_size, (3, 32), generator=seeded())
    figures = comparison.show_exact_nats(writers, windows)
    assert list(figures) == ["GPT", "dLLM, left to right", "dLLM, certainty", "dLLM, margin"]
    for name, nats in exact_by_hand(writers, windows).items():
        torch.testing.assert_close(figures[name], nats, atol=1e-4, rtol=0)
    assert not torch.allclose(figures["dLLM, certainty"], figures["dLLM, margin"], atol=1e-3)
    out = capsys.readouterr().out
    rows = {cells[0]: cells[1:] for line in out.splitlines() if (cells := [c.strip() for c in line.split("|")[1:-1]])}
    say = lambda nats: f"{nats.mean():.3f} +- {nats.std() / 3**0.5:.3f}"  # noqa: E731
    of_gpt, left_to_right = figures["GPT"], figures["dLLM, left to right"]
    assert rows["GPT"] == [say(of_gpt), "", ""]
    assert rows["dLLM, left to right"] == [say(left_to_right), say(left_to_right - of_gpt), ""]
    assert rows["dLLM, random"][:2] == ["", ""] and re.fullmatch(r"\d\.\d+ \+- 0\.\d+", rows["dLLM, random"][2])
    best = min((name for name in figures if name != "GPT"), key=lambda name: figures[name].mean())
    gap = (figures[best] - of_gpt).mean().item()
    assert f"{best} (its best order here) needs {abs(gap):.3f} +- " in out
    assert f"nats/character {'more' if gap > 0 else 'less'} than the GPT" in out


def test_the_short_comparison(small_checkpoint, gpt_checkpoint, text_file, writers):
    gpt_checkpoint.with_suffix(".csv").write_text(LOG)
    flags = ["--dllm", small_checkpoint, "--gpt", gpt_checkpoint, "--data", text_file, "--pieces", 3, "--seed", 5]
    code, out, err = run_script("10_compare.py", *flags)
    assert code == 0, err
    rows = (
        "characters of the whole run | not recorded | 128", "real, held out", "real, from training", "GPT, 0.8",
        "dLLM, 1 a pass, certainty, 0.8", "dLLM, 4 a pass, random, 0.8", "dLLM, 1 a pass, confidence, 1.0",
        "dLLM, margin", "GPT, without cache", "GPT, with cache",
    )  # fmt: skip
    for row in rows:
        assert f"| {row} |" in out, row
    ways = (1, "certainty", 0.8), (4, "random", 0.8), (4, "certainty", 0.8), (1, "confidence", 1.0)
    expected = {"GPT, 0.8": writers.by_gpt(0.8, 3, 32, 5)}
    for number, order, temperature in ways:
        sampling = comparison.letters_a_pass(number, 32, temperature, order)
        expected[comparison.describe(sampling, 32)] = writers.by_dllm(sampling, 3, 32, 5)
    tokenizer = writers.tokenizer
    tokens, _ = tensors.split_text(text_file.read_text(encoding="utf-8"), tokenizer, 32)
    judge = comparison.Judge(tokenizer.decode(tokens), tokenizer.vocab_size)
    for label, pieces in expected.items():
        assert f"--- {label}\n{pieces[0]}\n" in out
        assert comparison.judge_pieces(judge, label, pieces).row() in out
    assert "times faster" in out.strip().splitlines()[-1]
    code, out, err = run_script("10_compare.py", *flags, "--len", 16, "--windows", 5)
    assert code == 0 and "5 held-out windows of 16 characters" in out and "3 pieces of 16 characters each" in out, err


def test_both_kinds_are_needed(small_checkpoint, gpt_checkpoint, text_file):
    assert_refused(run_script("10_compare.py", "--dllm", gpt_checkpoint, "--gpt", gpt_checkpoint), 1, "is a GPT;")
    assert_refused(run_script("10_compare.py", "--dllm", small_checkpoint, "--gpt", small_checkpoint), 1, "is a dLLM;")
    assert_refused(run_script("10_compare.py", "--pieces", "1"), 2, "--pieces")
    flags = "--dllm", small_checkpoint, "--gpt", gpt_checkpoint, "--data", text_file
    assert_refused(run_script("10_compare.py", *flags, "--pieces", "999"), 1, "--pieces 999")
    assert_refused(run_script("10_compare.py", *flags, "--pieces", 3, "--windows", "999"), 1, "--windows 999")
    assert_refused(run_script("10_compare.py", *flags, "--len", "33"), 1, "--len 33 is too long")
    assert_refused(run_script("10_compare.py", "--gpt", "nowhere.pt", "--dllm", small_checkpoint), 1, "nowhere.pt")


def gpt_of(units, context, path):
    """A GPT with random weights in a file."""
    from dataclasses import asdict

    model = random_gpt(len(units), context)
    torch.save(dict(model=model.state_dict(), config=asdict(model.config), units=units), path)
    return path


def test_alphabets_must_be_equal_and_of_two_contexts_the_shorter_counts(small_checkpoint, tmp_path):
    other, short = gpt_of(["a", "b", "c"], 32, tmp_path / "o.pt"), gpt_of(sorted(set(VERSE)), 16, tmp_path / "gpt.pt")
    assert_refused(run_script("10_compare.py", "--dllm", small_checkpoint, "--gpt", other), 1, "alphabet")
    assert comparison.Writers(str(small_checkpoint), str(short)).length == 16
    assert comparison.Writers(str(small_checkpoint), str(short), length=9).length == 9


def test_the_log_beside_the_best_weights(gpt_checkpoint, tmp_path):
    shutil.copy(gpt_checkpoint, tmp_path / "run_best.pt")
    (tmp_path / "run.csv").write_text(LOG)
    assert [row["step"] for row in comparison.log_beside(tmp_path / "run_best.pt")] == ["1", "2"]
