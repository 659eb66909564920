"""The Tamil verse: counts on the real pages, misprints, and pages that are not what they should be."""

import re
import shutil
from importlib import import_module

import pytest
from conftest import ROOT, assert_refused, run_script

lesson1 = import_module("01_tensors")
tamil = import_module("tamil_dataset")


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
    works = tamil.collect(list(tamil.WORKS))
    assert {title: len(poems) for title, poems in works.items()} == {
        "Thirukkural": 1330, "Natrinai": 400, "Kuruntokai": 402, "Ainkurunuru": 498, "Akananuru": 401,
    }  # fmt: skip
    for title, characters in (("Natrinai", 137_000), ("Kuruntokai", 75_600), ("Ainkurunuru", 65_000), ("Akananuru", 238_000)):
        assert len("\n\n".join(works[title])) == pytest.approx(characters, rel=0.005)
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
    assert "Kuruntokai: 402 poems, 75,840 characters, 8 places mended" in report


@pytest.mark.parametrize(
    "wrong, right, count",
    [("அற\u0ba7ந்து", "அறிந்து", 1), ("அள\u0ba7 க்கும்", "அளிக்கும்", 1), ("\u0ba6வ்ருஉம்", "வெரூஉம்", 1),
     ("தௌிய நசை, வௌி", "தெளிய நசை, வெளி", 2), ("வௌவுநர்", "வௌவுநர்", 0), ("தௌ¢மே", "தெளிமே", 1), ("ஞா\u0ba1ன்றே", "ஞான்றே", 1),
     ("ஞ்\u0ba1ழலொடு", "ஞாழலொடு", 1), ("அ·து", "அஃது", 1), ("அகர முதல", "அகர முதல", 0),
     ("தௌ ர்ப்ப தௌ மணி", "தெளிர்ப்ப தெள் மணி", 2), ("கெளவை", "கௌவை", 1), ("கேண்மையடு", "கேண்மையொடு", 1), ("எனவேட் டோ ளே", "எனவேட் டோளே", 1)],
)  # fmt: skip
def test_misprints_are_mended_and_counted(wrong, right, count):
    mended, found = tamil.mend(f"அ\n{wrong}")
    assert mended == f"அ\n{right}" and not tamil.ill_formed(mended)
    assert [number for number, _, _ in found] == [2] * count


def test_normalize():
    assert tamil.normalize("க\u0bc6\u200c\u0bbe") == "கொ"
    assert tamil.normalize("\ufeffக\u200cொ\u00a0 க\u0bc6\u0bbe \n ப") == "கொ கொ\nப"


def test_ill_formed_letters_are_seen():
    assert tamil.ill_formed("அகர முதல, கௌ ஃ - \"ப்\"") == {}
    assert tamil.ill_formed("ாக கிி a1") == {"ா": 1, "ி": 1, "a": 1, "1": 1}


def test_headings_are_counted_not_read():
    lines = ["title", "7. பாலை", "அ", "7. பாலை", "ஆ", "இ", "9. பாலை", "ஈ", "முற்றும்", "10. பாலை", "உ"]
    assert tamil.split_poems(lines, r"\d+\.", "முற்றும்$") == [["அ"], ["ஆ", "இ"], ["ஈ"]]


@pytest.mark.parametrize("damage", ["shorter", "rearranged", "not tamil", "empty"])
def test_a_page_that_has_changed_is_refused(data, monkeypatch, damage):
    path = data / "madurai" / "pmuni0110.html"
    html = path.read_text(encoding="utf-8-sig")
    path.write_text(
        {
            "shorter": html[: len(html) // 2],
            "rearranged": html.replace("<br>", " "),
            "not tamil": "<html><body>404 Not Found</body></html>",
            "empty": "",
        }[damage],
        encoding="utf-8",
    )
    with pytest.raises(lesson1.UserError, match="pmuni0110.html gives .* nothing was written"):
        tamil.collect(list(tamil.WORKS))


def test_a_page_that_is_not_utf8_is_refused(data):
    (data / "madurai" / "pmuni0296.html").write_bytes(b"\xef\xbb\xbf<p>\xff\xfe")
    with pytest.raises(lesson1.UserError, match="not UTF-8"):
        tamil.read_work(tamil.WORKS["natrinai"])


def test_a_download_of_a_page_is_kept_and_not_fetched_again(tmp_path, monkeypatch):
    from conftest import Quiet, serving

    class Handler(Quiet):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"a page")

    monkeypatch.setattr(tamil, "DATA", tmp_path)
    with serving(Handler) as address:
        monkeypatch.setattr(tamil, "MADURAI", f"{address}/")
        path = tamil.fetch_work(tamil.WORKS["natrinai"])
    assert path.read_bytes() == b"a page"
    assert tamil.fetch_work(tamil.WORKS["natrinai"]) == path  # the server is gone


def test_without_network_and_data_it_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(tamil, "DATA", tmp_path)
    monkeypatch.setattr(tamil, "MADURAI", "http://127.0.0.1:9/")
    with pytest.raises(lesson1.UserError, match="http://127.0.0.1:9/pmuni0296.html"):
        tamil.fetch_work(tamil.WORKS["natrinai"])
    assert list(tmp_path.rglob("*.html")) == []


def test_the_script(tmp_path, data):
    code, out, err = run_script("tamil_dataset.py", "--stats", "--works", "thirukkural")
    assert code == 0 and "1,330" in out and "Natrinai" not in out, err
    assert_refused(run_script("tamil_dataset.py", "--works", "iliad"), 2, "iliad")
