"""Lesson 1: text, tokens, and files."""

import hashlib
from importlib import import_module

import pytest
import torch
from conftest import Quiet, serving

lesson1 = import_module("01_tensors")


def test_round_trip_on_the_real_text(real_text):
    tokenizer = lesson1.Tokenizer(sorted(set(real_text)))
    assert tokenizer.vocab_size == 65
    assert tokenizer.decode(tokenizer.encode(real_text)) == real_text


def test_longest_unit_wins():
    tokenizer = lesson1.Tokenizer(["a", "ab", "abc", "c", "."])
    assert tokenizer.encode("abcab.ac") == [2, 1, 4, 0, 3]
    assert tokenizer.decode([2, 1, 4, 0, 3]) == "abcab.ac"


@pytest.mark.parametrize("text, position", [("xab", 1), ("abx", 3), ("aab", 1)])
def test_unknown_character_is_named_with_its_position(text, position):
    tokenizer = lesson1.Tokenizer(["ab", "c"])
    with pytest.raises(lesson1.UserError, match=f"{text[position - 1]!r} at position {position} "):
        tokenizer.encode(text)


def test_error_of_a_mean():
    assert lesson1.mean_and_error(torch.tensor([1.0, 2.0, 3.0])) == pytest.approx((2.0, 1 / 3**0.5))


@pytest.mark.parametrize("units", [[], ["a", "a"], ["a", ""]])
def test_units_must_make_an_alphabet(units):
    with pytest.raises(ValueError):
        lesson1.Tokenizer(units)


def test_text_file_with_byte_order_mark(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\r\n")
    assert lesson1.load_text(tmp_path / "t.txt") == "café\n"


@pytest.mark.parametrize("content, word", [(None, "cannot read"), (b"", "empty"), (b"caf\xe9 au lait", "not UTF-8")])
def test_bad_text_files(tmp_path, content, word):
    if content is not None:
        (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(lesson1.UserError, match=word):
        lesson1.load_text(tmp_path / "t.txt")


@pytest.fixture
def server():
    """A web server on the loopback: /good is whole, /short is cut in the middle, the rest is not found."""

    class Handler(Quiet):
        def do_GET(self):
            content = b"To be, or not to be" * 100
            if self.path == "/missing":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:700] if self.path == "/short" else content)

    with serving(Handler) as address:
        yield address


GOOD = hashlib.sha256(b"To be, or not to be" * 100).hexdigest()


def test_download_and_then_no_network(server, tmp_path):
    path = tmp_path / "data" / "t.txt"
    assert lesson1.download(f"{server}/good", GOOD, path).read_bytes().startswith(b"To be")
    assert lesson1.download("http://127.0.0.1:9/nobody", GOOD, path) == path


@pytest.mark.parametrize("page, checksum", [("missing", GOOD), ("short", GOOD), ("good", "0" * 64)])
def test_failed_download_leaves_nothing_and_says_what_to_do(server, tmp_path, page, checksum):
    path = tmp_path / "t.txt"
    with pytest.raises(lesson1.UserError) as refusal:
        lesson1.download(f"{server}/{page}", checksum, path)
    assert f"{server}/{page}" in str(refusal.value) and str(path) in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_failed_download_keeps_the_file_that_was_there(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("an edited copy")
    with pytest.raises(lesson1.UserError):
        lesson1.download("http://127.0.0.1:9/nobody", GOOD, path)
    assert path.read_text() == "an edited copy"


def test_full_disk_leaves_the_old_file(tmp_path):
    resource = pytest.importorskip("resource")  # not on Windows
    path = tmp_path / "file"
    lesson1.write_safely(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # a write beyond it fails, as on a full disk
    try:
        with pytest.raises(lesson1.UserError, match="could not save"):
            lesson1.write_safely(path, b"new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_unigram_entropy_of_known_frequencies():
    ids = torch.tensor([0] * 4 + [1] * 2 + [2] * 2)
    assert lesson1.unigram_entropy(ids, 5) == pytest.approx(1.5 * 0.6931472)
