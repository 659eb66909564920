"""Lesson 1: text and tokens."""

from importlib import import_module

import pytest

from tools.command_line import UserError

import torch

tensors = import_module("01_tensors")


def test_round_trip_on_the_real_text(real_text):
    tokenizer = tensors.Tokenizer(sorted(set(real_text)))
    assert tokenizer.vocab_size == 65
    assert tokenizer.decode(tokenizer.encode(real_text)) == real_text


def test_longest_unit_wins():
    tokenizer = tensors.Tokenizer(["a", "ab", "abc", "c", "."])
    assert tokenizer.encode("abcab.ac") == [2, 1, 4, 0, 3]
    assert tokenizer.decode([2, 1, 4, 0, 3]) == "abcab.ac"


@pytest.mark.parametrize("text, position", [("xab", 1), ("abx", 3), ("aab", 1)])
def test_unknown_character_is_named_with_its_position(text, position):
    tokenizer = tensors.Tokenizer(["ab", "c"])
    with pytest.raises(UserError, match=f"{text[position - 1]!r} at position {position} "):
        tokenizer.encode(text)


@pytest.mark.parametrize("units", [[], ["a", "a"], ["a", ""]])
def test_units_must_make_an_alphabet(units):
    with pytest.raises(ValueError):
        tensors.Tokenizer(units)


def test_text_file_with_byte_order_mark(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\r\n")
    assert tensors.load_text(tmp_path / "t.txt") == "café\n"


@pytest.mark.parametrize("content, word", [(None, "cannot read"), (b"", "empty"), (b"caf\xe9 au lait", "not UTF-8")])
def test_bad_text_files(tmp_path, content, word):
    if content is not None:
        (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(UserError, match=word):
        tensors.load_text(tmp_path / "t.txt")


def test_unigram_entropy_of_known_frequencies():
    ids = torch.tensor([0] * 4 + [1] * 2 + [2] * 2)
    assert tensors.unigram_entropy(ids, 5) == pytest.approx(1.5 * 0.6931472)


def test_split_is_ninety_to_ten_without_overlap():
    text = "".join(chr(0x4E00 + i) for i in range(1000))
    tokenizer = tensors.Tokenizer(sorted(set(text)))
    tokens, windows = tensors.split_text(text, tokenizer, context=30)
    assert tokenizer.decode(tokens) == text[:900]
    assert tokenizer.decode(windows.flatten()) == text[900:990]
    assert windows.shape == (3, 30)
    with pytest.raises(UserError, match="needs 1,010 or more"):
        tensors.split_text(text, tokenizer, context=101)
    with pytest.raises(UserError, match=r"the text \(--data\), the character '!' at position 1001 "):
        tensors.split_text(text + "!", tokenizer, context=30)


def test_windows_come_from_everywhere_in_the_text():
    draw = tensors.random_windows(torch.arange(12), context=10, batch=200)
    windows = draw(torch.Generator().manual_seed(0))
    assert set(windows[:, 0].tolist()) == {0, 1, 2}  # the last place included
    assert torch.equal(windows, windows[:, :1] + torch.arange(10))
    assert torch.equal(windows, draw(torch.Generator().manual_seed(0)))
