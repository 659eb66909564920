"""The Tamil verse: counts on the real pages, misprints, and pages that are not what they should be."""

import contextlib
import gzip
import itertools
import random
import re
import shutil
import threading
import time

import pytest
from conftest import ROOT, Quiet, assert_refused, run_script, serving

import tamil_dataset as tamil
from tools import files
from tools.command_line import UserError


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A copy of the real files, and no network."""
    for work in tamil.WORKS.values():
        if not (ROOT / "data" / work.file).exists():
            pytest.skip(f"data/{work.file} is not there")
        (tmp_path / work.file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "data" / work.file, tmp_path / work.file)
    monkeypatch.setattr(tamil, "DATA", tmp_path)
    return tmp_path


def test_the_works_are_whole(data, capsys):
    works = tamil.collect(list(tamil.WORKS), show=True)
    assert {title: len(poems) for title, poems in works.items()} == {
        "Thirukkural": 1330, "Natrinai": 400, "Kuruntokai": 402, "Ainkurunuru": 498, "Akananuru": 401,
    }  # fmt: skip
    about = dict(Natrinai=137_000, Kuruntokai=75_600, Ainkurunuru=65_000, Akananuru=238_000)  # characters
    assert {title: len("\n\n".join(works[title])) for title in about} == pytest.approx(about, rel=0.005)
    assert all(poem.count("\n") == 1 for poem in works["Thirukkural"])
    assert works["Thirukkural"][0] == "அகர முதல எழுத்தெல்லாம் ஆதி\nபகவன் முதற்றே உலகு."
    assert works["Kuruntokai"][3] == (  # the third, after the invocation
        "நிலத்தினும் பெரிதே வானினும் உயர்ந்தன்று\nநீரினும் ஆரள வின்றே சாரல்\nகருங்கோற் குறிஞ்சிப் பூக்கொண்டு\n"
        "பெருந்தேன் இழைக்கும் நாடனொடு நட்பே."
    )
    assert works["Ainkurunuru"][178].startswith("நெய்தல் உண்கண்")  # shares a line with its number
    assert works["Natrinai"][384].endswith("எழுது எழில் மழைக்க")  # the rest is lost
    for poems in works.values():
        for poem in poems:
            assert not tamil.ill_formed(poem), poem
            assert not any(character.isdigit() or ("a" <= character.lower() <= "z") for character in poem), poem
            assert all(line == line.strip() and line for line in poem.split("\n")), poem
    everything = "\n".join(poem for poems in works.values() for poem in poems)
    assert not re.search("யடு |தௌ |டோ ளே", everything)
    report = capsys.readouterr().err
    for poem in (483, 599, 851, 913, 957, 1118, 1192, 1321):
        assert f"poem {poem} in order" in report
    for title, poem, places in (("Kuruntokai", 402, 12), ("Natrinai", 400, 103), ("Akananuru", 401, 34)):
        assert re.search(rf"^{title}: {poem} poems, [\d,]+ characters, {places} places mended", report, re.MULTILINE)


@pytest.mark.parametrize(
    "wrong, right, count",
    [("அற\u0ba7ந்து", "அறிந்து", 1), ("அள\u0ba7 க்கும்", "அளிக்கும்", 1), ("\u0ba6வ்ருஉம்", "வெரூஉம்", 1),
     ("தௌிய நசை, வௌி", "தெளிய நசை, வெளி", 2), ("வௌவுநர்", "வௌவுநர்", 0), ("தௌ¢மே", "தெளிமே", 1),
     ("ஞா\u0ba1ன்றே", "ஞான்றே", 1), ("ஞ்\u0ba1ழலொடு", "ஞாழலொடு", 1), ("அ·து", "அஃது", 1), ("அகர முதல", "அகர முதல", 0),
     ("தௌ ர்ப்ப தௌ மணி", "தெளிர்ப்ப தெள் மணி", 2), ("கெளவை", "கௌவை", 1), ("கேண்மையடு", "கேண்மையொடு", 1),
     ("எனவேட் டோ ளே", "எனவேட் டோளே", 1)],
)  # fmt: skip
def test_misprints_are_mended_and_counted(wrong, right, count):
    mended, found = tamil.mend_poem(f"அ\n{wrong}")
    assert mended == f"அ\n{right}" and not tamil.ill_formed(mended)
    assert [line for _, line in found] == [right] * count


MISPRINTED = {  # what the rule must see in the pages: the poem, in order, and the word
    "thirukkural": [(445, "சூழ்வாரைக்"), (529, "தமராகிக்"), (855, "மிக்லூக்கும்"), (858, "மிக்லூக்கின்")],
    "natrinai": [(98, "செய்ய்ம்ம்")],
    "ainkurunuru": [
        (21, "ய்ய்ரன்"), (55, "பிளிற்ரும்"), (76, "நல்ம்மேம்"), (105, "த்ஹுறவன்"), (159, "ல்ஃதே"), (195, "இறைஞ்ச்நின்"),
        (214, "ஏற்ரை"), (266, "ய்ணீஇய"), (312, "திரித்ரும்"), (332, "ப்ல்லிதல்"), (338, "தட்டைத்"), (383, "காளையொட்ய்"),
        (450, "கற்ங்குரல்"), (458, "ஞ்சின"), (472, "நெடுட்ந்தேர்"),
    ],
    "akananuru": [(9, "ஏற்றைக்"), (289, "கொங்தொடு")],
}  # fmt: skip
IN_DOUBT = {
    "natrinai": {98: ["செய்ய்ம்ம்"]},
    "ainkurunuru": {76: ["நல்ம்மேம்"], 338: ["தட்டைத்"]},
    "akananuru": {289: ["கொங்தொடு"]},
}


def test_the_rule_sees_misprints_and_few_words_are_left_in_doubt(data):
    for name, work in tamil.WORKS.items():
        poems = tamil.read_work(work)
        for number, word in MISPRINTED.get(name, []):
            assert word in tamil.doubtful_words(poems[number - 1]), (name, number)
        mended = [tamil.mend_poem(poem)[0] for poem in poems]
        doubts = {number: words for number, poem in enumerate(mended, 1) if (words := tamil.doubtful_words(poem))}
        assert doubts == IN_DOUBT.get(name, {})
        assert not any(found for _, found in map(tamil.mend_poem, mended))  # no right line is taken for a wrong one


@pytest.mark.parametrize(
    "text",
    ["ஈர்ங்கை வாழ்த்த போன்ம் செய்ந்நன்றி", "கல்இயல் மரம்கொல் வெரிந்ஓங்கு நாள்தொறும்", "பாடிப் பாடித்\nதந்த, வேட்ப",
     "அஃது எஃகம் யாரஃ தறிந்தோர்", "துளி றாங்கே டியைந்து", "நட்பு கற்க அறற்கு"],
)  # fmt: skip
def test_the_rule_doubts_no_right_word(text):
    assert tamil.doubtful_words(text) == []


@pytest.mark.parametrize("content", ["", "[", "{}", "[]", '{"kural": 1}', '{"kural": [{"Line1": null}]}', "[" * 10**5])
def test_a_file_of_the_thirukkural_of_another_shape_is_one_sentence(content, tmp_path):
    path = tmp_path / "thirukkural.json"
    path.write_text(content)
    with pytest.raises(UserError, match="is no file of the Thirukkural"):
        tamil.verse_of_thirukkural(None, path)


def test_normalize():
    assert tamil.normalize("க\u0bc6\u200c\u0bbe") == "கொ"
    assert tamil.normalize("\ufeffக\u200cொ\u00a0 க\u0bc6\u0bbe \n ப") == "கொ கொ\nப"


def test_a_run_of_combining_signs_is_no_writing():
    assert tamil.normalize("க" + "\u0bcd\u0323" * 50 + " கா") == "க கா"
    assert tamil.normalize("க" + "\u0bcd" * 30) == "க" + "\u0bcd" * 30
    assert tamil.normalize("." * 99 + "…" * 99) == "." * 99 + "…" * 99


def test_lines_of_a_page():
    page = """<!DOCTYPE html><!-- <br>not seen --><META content="a>b <br>" x='>'><p>அ &amp; ஆ
        இ<BR/>ஈ<br >உ<a href=x"y>ஊ</a><small>colophon<br>more</SMALL>எ<table><tr><td  WIDTH='50' >ஏ</td><td width=500>ஐ
        <!-- not closed <br> ஒ"""
    lines = tamil.page_lines(page.replace("  WIDTH", "  width"))
    assert lines == ["அ & ஆ இ", "ஈ", "உஊ", "எ", "#ஏ", "ஐ"]


@pytest.mark.parametrize(
    "line, verse",
    [("அகர முதல 12", "அகர முதல"), ("அகர 129-18 ", "அகர"), ("அகர ... 5", "அகர"), ("அகர -5", "அகர -"),
     ("12 அகர", "12 அகர"), ("அகர .", "அகர"), ("அகர - - - முதல", "அகர முதல"), ("அகர ; முதல", "அகர; முதல"),
     ("7", ""), ("அ1.2", "அ1")],
)  # fmt: skip
def test_what_stands_beside_a_verse_is_taken_away(line, verse):
    assert tamil.clean_verse(line) == verse


def test_ill_formed_letters_are_seen():
    assert tamil.ill_formed('அகர முதல, கௌ ஃ - "ப்"') == {}
    assert tamil.ill_formed("ாக கிி a1") == {"ா": 1, "ி": 1, "a": 1, "1": 1}


def test_headings_are_counted_not_read():
    lines = ["title", "7. பாலை", "அ", "7. பாலை", "ஆ", "இ", "9. பாலை", "ஈ", "முற்றும்", "10. பாலை", "உ"]
    assert tamil.split_poems(lines, r"\d+\.", "முற்றும்$") == [["அ"], ["ஆ", "இ"], ["ஈ"]]
    assert tamil.split_poems(lines[:8], r"\d+\.", "முற்றும்$") == []  # cut


DAMAGED = {
    "shorter": lambda html: html[: len(html) // 2],
    "rearranged": lambda html: html.replace("<br>", " "),
    "not tamil": lambda html: "<html><body>404 Not Found</body></html>",
    "empty": lambda html: "",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_page_that_has_changed_is_refused(data, damage):
    path = data / "madurai" / "pmuni0110.html"
    path.write_text(DAMAGED[damage](path.read_text(encoding="utf-8-sig")), encoding="utf-8")
    with pytest.raises(UserError, match="pmuni0110.html gives .* nothing was written"):
        tamil.collect(list(tamil.WORKS))


N = 1_000_000  # characters
HOSTILE = {
    "a comment": "<!--" + " " * N,
    "comments": "<!--" * (N // 4),
    "declarations": "<!" * (N // 2),
    "sections": "<![" * (N // 3),
    "instructions": "<?" * (N // 2),
    "ends": "</a" * (N // 3),
    "tags": "<a " * (N // 3),
    "attributes": "<a x=" * (N // 5),
    "quotes": '<a x="' * (N // 6),
    "equal signs": "<a" + " =" * (N // 2),
    "open": "<" * N,
    "nested": "<b>" * (N // 3),
    "lines": "1.<br>" * (N // 6),
    "ampersands": "&a" * (N // 2),
    "hexadecimal": "&#x" + "f" * N,
    "digits": "1. அ<br>" + "1" * N + "a",
    "dots": "1. அ<br>" + "." * N + "a",
    "dashes": "1. அ<br>" + " -" * (N // 2) + "a",
    "combining": "1. அ<br>க" + "\u0bcd\u0323" * (N // 6),
    "noise": "".join(random.Random(0).choices("<!-->'\"=/ &#;x1.அ\u0bcd\n", k=N)),
}


@pytest.mark.parametrize("page", HOSTILE)
def test_a_hostile_page_is_soon_refused(data, page):
    path, began = data / "madurai" / "pmuni0110.html", time.process_time()
    path.write_text(HOSTILE[page], encoding="utf-8")
    with pytest.raises(UserError, match="pmuni0110.html gives .* nothing was written"):
        tamil.collect(["kuruntokai"])
    assert time.process_time() - began < 10  # seconds; it takes less than one


def test_a_page_full_of_misprints_is_soon_mended(data, capsys):
    path, began = data / "madurai" / "pmuni0110.html", time.process_time()
    path.write_text("<br>".join(["1.<br>அ"] * 401 + ["1.", "அ" + "·" * 74_000, "முற்றும்"]), encoding="utf-8")
    assert tamil.collect(["kuruntokai"])["Kuruntokai"][-1] == "அ" + "ஃ" * 74_000
    assert "74000 places mended" in capsys.readouterr().err and time.process_time() - began < 10


def test_a_hostile_head_changes_nothing(data, capsys):
    path = data / "madurai" / "pmuni0110.html"
    path.write_text("<p <![ <!-- > --> &#55555555; '" + path.read_text(encoding="utf-8-sig"), encoding="utf-8")
    assert len(tamil.collect(["kuruntokai"])["Kuruntokai"]) == 402
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "page, words",
    [(b"&#" + b"9" * 5000 + b";", "no character"), (b" " * 2**21 + b"!", "larger than a page"),
     (b"\xef\xbb\xbf<p>\xff\xfe", "not UTF-8")],
)  # fmt: skip
def test_a_page_that_cannot_be_read_is_one_sentence(data, page, words):
    (data / "madurai" / "pmuni0110.html").write_bytes(page)
    with pytest.raises(UserError, match=f"pmuni0110.html .*{words}.*; delete it"):
        tamil.collect(["kuruntokai"])


def test_the_limit_on_a_page_is_far_above_the_real_ones(data):
    assert max(path.stat().st_size for path in data.rglob("*.html")) < tamil.MAX_PAGE / 2


def drops():
    for _ in range(80):  # for four seconds
        yield b"x"
        threading.Event().wait(0.05)


PAGE = b"a page " * 100
PACKED, CHUNK = gzip.compress(PAGE), b"%x\r\n%s\r\n" % (len(PAGE), PAGE)
OK, CHUNKS, GZIP = "200 OK\r\n", "Transfer-Encoding: chunked\r\n", "Content-Encoding: gzip\r\n"
LENGTH = "Content-Length: {}\r\n".format
WAYS = {  # the last part of the address: the head of the answer, and what makes the pieces of its body
    "whole": (OK + LENGTH(len(PAGE)), lambda: [PAGE]),
    "packed": (OK + GZIP + LENGTH(len(PACKED)), lambda: [PACKED]),
    "in-chunks": (OK + CHUNKS, lambda: [CHUNK, b"0\r\n\r\n"]),
    "cut": (OK + LENGTH(len(PAGE)), lambda: [PAGE[:99]]),
    "cut-at-once": (OK + LENGTH(len(PAGE)), lambda: []),
    "packed-and-cut": (OK + GZIP + LENGTH(len(PACKED)), lambda: [PACKED[:-9]]),
    "cut-in-chunks": (OK + CHUNKS, lambda: [CHUNK]),
    "missing": ("404 Not Found\r\n" + LENGTH(len(PAGE)), lambda: [PAGE]),
    "elsewhere": ("302 Found\r\nLocation: /elsewhere\r\nConnection: close\r\n" + LENGTH(0), lambda: []),
    "dripping": (OK + LENGTH(N), drops),
    "dripping-in-chunks": (OK + CHUNKS, lambda: (b"1\r\n%s\r\n" % drop for drop in drops())),
    "dripping-head": (OK + "X-Name: ", drops),
    "silent": (OK + LENGTH(N), lambda: filter(None, [threading.Event().wait(4)])),
}


class Site(Quiet):
    """A site of one page, which it gives in many ways."""

    def do_GET(self):
        head, pieces = WAYS[self.path.split("/")[1]]
        end = "" if head.endswith(": ") else "\r\n"
        with contextlib.suppress(OSError):  # the other side has had enough
            for piece in itertools.chain([f"HTTP/1.1 {head}{end}".encode()], pieces()):
                self.connection.sendall(piece)


def test_a_download_of_a_page_is_kept_and_not_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setattr(tamil, "DATA", tmp_path)
    with serving(Site) as address:
        monkeypatch.setattr(tamil, "MADURAI", f"{address}/whole/")
        path = tamil.fetch_work(tamil.WORKS["natrinai"])
    assert path.read_bytes() == PAGE
    assert tamil.fetch_work(tamil.WORKS["natrinai"]) == path  # the server is gone
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("way", ["packed", "in-chunks"])
def test_a_page_comes_whole(way, tmp_path):
    with serving(Site) as address:
        assert files.download(f"{address}/{way}", None, tmp_path / "page").read_bytes() == PAGE


@pytest.mark.parametrize(
    "way, reason",
    [("cut", "ChunkedEncodingError"), ("cut-at-once", "ChunkedEncodingError"), ("missing", "HTTPError"),
     ("cut-in-chunks", "ChunkedEncodingError"), ("packed-and-cut", "ChunkedEncodingError"), ("silent", "TimeoutError"),
     ("elsewhere", "TooManyRedirects"),
     ("dripping", "TimeoutError"), ("dripping-in-chunks", "TimeoutError"), ("dripping-head", "TimeoutError")],
)  # fmt: skip
def test_a_download_that_fails_is_one_sentence_and_leaves_nothing(way, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(tamil, "DATA", tmp_path)
    monkeypatch.setattr(files, "DOWNLOAD_SECONDS", 1)
    began = time.monotonic()
    with serving(Site) as address:
        monkeypatch.setattr(tamil, "MADURAI", f"{address}/{way}/")
        with pytest.raises(UserError, match=rf"download {address}/{way}/.*{reason}.*; fetch it yourself") as refusal:
            tamil.fetch_work(tamil.WORKS["natrinai"])
    assert "\n" not in str(refusal.value) and time.monotonic() - began < 60
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_wrong_checksum_leaves_nothing(tmp_path):
    with serving(Site) as address, pytest.raises(UserError, match="its checksum is wrong"):
        files.download(f"{address}/whole", "0" * 64, tmp_path / "page")
    assert list(tmp_path.iterdir()) == []


def test_without_network_and_data_it_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(tamil, "DATA", tmp_path)
    monkeypatch.setattr(tamil, "MADURAI", "http://127.0.0.1:9/")
    with pytest.raises(UserError, match="http://127.0.0.1:9/pmuni0296.html"):
        tamil.fetch_work(tamil.WORKS["natrinai"])
    assert list(tmp_path.rglob("*.html")) == []


def test_the_script(tmp_path, data):
    code, out, err = run_script("tamil_dataset.py", "--stats", "--works", "thirukkural")
    assert code == 0 and "1,330" in out and "Natrinai" not in out, err
    assert err == "Thirukkural: 1,330 poems, 82,937 characters, 39 places mended, words in doubt: 0\n"
    assert_refused(run_script("tamil_dataset.py", "--works", "iliad"), 2, "iliad")


def test_what_was_mended_is_shown_when_asked_for(data):
    code, out, err = run_script("tamil_dataset.py", "--stats", "--mended", "--works", "thirukkural", "kuruntokai")
    assert code == 0 and len(out.splitlines()) == 3
    assert sum(line.startswith("  poem ") for line in err.splitlines()) == 39 + 12 == len(err.splitlines()) - 2
    assert re.search("^  poem 599 in order, an e sign before its letter.*: .*வெரூஉம்", err, re.MULTILINE)
