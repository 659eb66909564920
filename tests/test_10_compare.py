"""Lesson 10: the judge on texts with a known answer, and the whole comparison on two tiny models."""

import math
import re
from importlib import import_module

import pytest
import torch
from conftest import VERSE, assert_refused, random_gpt, run_script

compare = import_module("10_compare")


def test_judge_worked_out_by_hand():
    judge = compare.Judge("abab", 2, order=2)  # a: 2, b: 2; after a: b twice; after b: a once
    a = b = (2 + 2 * 0.5) / (4 + 2)  # four characters, two different ones, 1/V = 0.5 below
    after_a = (2 + 1 * b) / (2 + 1)
    after_b = (1 + 1 * a) / (1 + 1)
    assert judge.probability("", "a") == pytest.approx(a)
    assert judge.probability("a", "b") == pytest.approx(after_a)
    assert judge.probability("a", "a") == pytest.approx((0 + 1 * a) / 3)
    assert judge.nats(["ab", "ba"]) == pytest.approx(-(math.log(a) + math.log(after_a) + math.log(b) + math.log(after_b)) / 4)


@pytest.mark.parametrize("history", ["", "S", "Shall", "mmer'", "qqqqq", "t qqq", "xt tha"])
def test_judge_gives_probabilities_that_sum_to_one(history):
    judge = compare.Judge(VERSE, len(set(VERSE)))
    p = [judge.probability(history, character) for character in sorted(set(VERSE))]
    assert sum(p) == pytest.approx(1) and min(p) > 0


def test_judge_finds_order_in_order_and_not_in_a_shuffle():
    judge = compare.Judge(VERSE * 3, len(set(VERSE)))
    shuffled = "".join(VERSE[i] for i in torch.randperm(len(VERSE), generator=torch.Generator().manual_seed(0)))
    assert judge.nats([VERSE]) < 0.5 < judge.nats([shuffled]) - 2


def test_known_words_distinct_grams_and_copies():
    judge = compare.Judge("the cat sat on the mat. it's here", 30)
    assert judge.known_words(["the dog sat", "it's cat"]) == pytest.approx(4 / 5)
    assert judge.known_words(["... "]) == 0
    assert judge.distinct(["abcde", "abcde"]) == 2 / 4  # abcd and bcde, twice each
    assert judge.distinct(["aaaaaaa"]) == 1 / 4
    assert judge.longest_copy(["a cat sat up", "xx on the maxx"]) == len(" on the ma")
    assert judge.longest_copy(["QQQ"]) == 0


def test_errors_are_the_usual_formula_for_means():
    pieces = ["aaaa", "abab", "bbbb", "baba", "abba"]
    share_of_a = lambda pieces: sum(piece.count("a") for piece in pieces) / sum(map(len, pieces))  # noqa: E731
    values = [share_of_a([piece]) for piece in pieces]
    expected = torch.tensor(values).std().item() / math.sqrt(5)
    for figure in (compare.with_error, compare.mean_with_error):
        assert figure(share_of_a, pieces) == pytest.approx((sum(values) / 5, expected))


def test_pieces_come_from_the_whole_of_the_text():
    windows = torch.arange(101)[:, None].expand(-1, 4)
    assert compare.spread(windows, 5)[:, 0].tolist() == [0, 25, 50, 75, 100]
    with pytest.raises(compare.UserError, match="--pieces 102"):
        compare.spread(windows, 102)


def test_the_choice_is_the_most_fluent_of_those_as_diverse_as_real_text():
    def verdict(nats, distinct):
        return compare.Verdict("", (nats, 0), (1, 0), (distinct, 0), 0, [])

    settings = [compare.Setting(order, t) for order, t in (("random", 0.1), ("random", 0.2), ("left to right", 0.3), ("random", 0.4), ("random", 0.5))]
    values = [(1.0, 0.2), (2.0, 0.62), (1.9, 0.66), (1.5, 0.69), (0.5, 0.99)]
    written = {setting: verdict(*value) for setting, value in zip(settings, values)}
    verdicts = compare.Verdicts(verdict(1.7, 0.2), verdict(1.6, 0.64), written)
    assert [setting.temperature for setting in compare.as_diverse(verdicts)] == [0.3, 0.2]


LOG = "step,seconds,characters,lr,loss,heldout\n1,1.0,64,0.01,2.5,\n2,2.0,128,0.01,2.4,2.45\n"


def test_the_whole_comparison(small_checkpoint, gpt_checkpoint, text_file, tmp_path):
    gpt_checkpoint.with_suffix(".csv").write_text(LOG)
    flags = ["--dllm", small_checkpoint, "--gpt", gpt_checkpoint, "--data", text_file, "--pieces", 3, "--pictures", tmp_path / "new" / "pictures"]
    code, out, err = run_script("10_compare.py", *flags)
    assert code == 0, err
    for part in ("bound", "exact", "without the first of each 32 characters", "| real, held out |", "| real, from training |", "| GPT, 0.8 |", "| GPT, 1.2 |",
                 "| characters of the whole run | not recorded | 128 |", "| dLLM, 32 a pass, random, 1.0 |",
                 "dLLM, 1 a pass, certainty, 1.0, top-k 3", "times faster", f"No log beside {small_checkpoint}"):  # fmt: skip
        assert part in out, part
    rows = re.findall(r"^\| (?:dLLM, \d+ a pass|GPT), (?!.*again).*%", out, re.M)
    assert len(set(rows)) >= len(compare.all_settings()) == 13 * 6 + 3 + 7
    pictures = sorted((tmp_path / "new" / "pictures").iterdir())
    assert [path.name for path in pictures] == ["10_curves.png", "10_speed.png", "10_steps.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert out.strip().splitlines()[-1] == str(tmp_path / "new" / "pictures" / "10_speed.png")


def test_both_kinds_are_needed(small_checkpoint, gpt_checkpoint, text_file):
    assert_refused(run_script("10_compare.py", "--dllm", gpt_checkpoint, "--gpt", gpt_checkpoint), 1, "is a GPT;")
    assert_refused(run_script("10_compare.py", "--dllm", small_checkpoint, "--gpt", small_checkpoint), 1, "is a dLLM;")
    assert_refused(run_script("10_compare.py", "--pieces", "1"), 2, "--pieces")
    flags = "--dllm", small_checkpoint, "--gpt", gpt_checkpoint, "--data", text_file
    assert_refused(run_script("10_compare.py", *flags, "--pieces", "999"), 1, "--pieces 999")
    assert_refused(run_script("10_compare.py", "--gpt", "nowhere.pt", "--dllm", small_checkpoint), 1, "nowhere.pt")


def test_two_alphabets_cannot_be_compared(small_checkpoint, tmp_path):
    from dataclasses import asdict

    model = random_gpt(3, 32)
    torch.save(dict(model=model.state_dict(), config=asdict(model.config), units=["a", "b", "c"]), tmp_path / "gpt.pt")
    assert_refused(run_script("10_compare.py", "--dllm", small_checkpoint, "--gpt", tmp_path / "gpt.pt"), 1, "alphabet")
