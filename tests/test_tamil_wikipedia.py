"""Tamil Wikipedia, from local servers: answers made by hand after www.mediawiki.org/wiki/API:Continue, API:Allpages,
Extension:TextExtracts and Manual:Maxlag_parameter; a dump and wikiextractor, real where they are there, and made up."""

import contextlib
import gzip
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import unicodedata
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import ROOT, Quiet, assert_refused, environment, run_script, serving

import tamil_wikipedia as wikipedia
from tools.command_line import UserError

SAMPLE = ROOT / "data" / "tamil_wiki" / "AA_wiki_00.txt"
TINY_DUMP = ROOT / "data" / "tamil_wiki" / "synthetic-tiny-pages-articles.xml.bz2"
NOWHERE = "http://127.0.0.1:9/w/api.php"  # nothing listens there
TOTAL = 5
PAGES = [(10 + n, f"கட்டுரை {n} ஒரு நூல்.\n\n\nவரலாறு\nஅது எண் {n}.") for n in range(TOTAL)]  # page id, text
TEXTS = [f"கட்டுரை {n} ஒரு நூல்.\nவரலாறு\nஅது எண் {n}." for n in range(TOTAL)]


class Wiki(Quiet):
    """The API: allpages as a generator with one extract per answer. Subclasses set what happens."""

    pages, batch, trouble, asked, busy = PAGES, None, {}, [], threading.Lock()

    def do_GET(self):
        assert self.busy.acquire(blocking=False), "two requests at once"
        self.answer({name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()})

    def answer(self, query):
        self.asked.append((query, dict(self.headers)))
        if len(self.asked) in self.trouble:
            self.trouble[len(self.asked)](self)
        else:
            self.send(self.result(query))

    def result(self, query):
        first, extract = int(query.get("gapcontinue", 0)), int(query.get("excontinue", 0))
        batch = self.pages[first : first + (self.batch or int(query["gaplimit"]))]
        listed = [{"pageid": page, "ns": 0, "title": str(page)} for page, _ in batch]
        listed[extract]["extract"] = batch[extract][1]
        if extract + 1 < len(batch):
            place = {"excontinue": extract + 1, "gapcontinue": str(first), "continue": "gapcontinue||"}
            return {"continue": place, "query": {"pages": listed}}
        following = first + len(batch)
        result = {"batchcomplete": True, "query": {"pages": listed}}
        if self.pages[following:]:
            result["continue"] = {"gapcontinue": str(following), "continue": "gapcontinue||"}
        return result

    def send(self, result, status=200, cut=False, **headers):
        body = gzip.compress(json.dumps(result).encode())
        self.busy.release()  # before the answer is out: the next question may follow at once
        self.send_response(status)
        for name, value in {"Content-Encoding": "gzip", "Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)


def a_wiki(**settings):
    """A server class of its own, with its own list of what was asked."""
    return type("SomeWiki", (Wiki,), {"asked": [], "busy": threading.Lock(), **settings})


def error(code, **headers):
    """Trouble: an error of the API, with status 200, as documented; maxlag: the servers' copies are behind."""
    return lambda server: server.send({"error": {"code": code, "info": "an explanation"}}, **headers)


def status(number, **headers):
    """Trouble: an error status."""
    return lambda server: server.send({}, number, **headers)


def cut(server):
    """Trouble: the connection ends in the middle of an answer."""
    server.send(server.result({"gaplimit": 1}), cut=True)


@pytest.fixture
def pauses(monkeypatch):
    """The list of the pauses that were asked for; none is made."""
    asked = []
    monkeypatch.setattr(wikipedia.time, "sleep", asked.append)
    return asked


def articles(folder):
    """The articles in tamil_wiki.txt."""
    text = (folder / "tamil_wiki.txt").read_text(encoding="utf-8")
    assert text.endswith("\n") and not text.endswith("\n\n")
    return text[:-1].split("\n\n")


def command(folder, setup, *arguments):
    """A Python command that changes some of the script's settings and then runs it with this folder."""
    code = f"import sys, pathlib; sys.path.insert(0, {str(ROOT)!r}); import tamil_wikipedia as t; {setup}"
    code += f"; t.FOLDER = pathlib.Path({str(folder)!r}); t.run(t.main)"
    return [sys.executable, "-c", code, *map(str, arguments)]


def run_with(folder, setup, *arguments, **extra):
    """Runs it to its end. Returns (exit status, standard output, standard error)."""
    program = command(folder, setup, *arguments)
    done = subprocess.run(program, env=environment(**extra), capture_output=True, timeout=300)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def start(command):
    """Starts a process that hears Ctrl-C even if the tests run in the background, where a shell turns that off."""
    hear = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen(command, env=environment(), preexec_fn=hear, **pipes)


# Cleaning


def test_cleaning_keeps_all_that_can_be_seen():
    clean = wikipedia.clean_article
    assert clean("a < b மற்றும் c > d\n== ஒன்று == இரண்டு ==") == "a < b மற்றும் c > d\n== ஒன்று == இரண்டு =="
    assert clean("\ufeffக்\u200cஷ\u200b\u00a0ஒரு  \t நூல் \r\n\n \n\nமுடிவு\n") == "க்ஷ ஒரு நூல்\nமுடிவு"
    assert clean("க\u0bc6\u0bbe") == clean("க\u0bc6\u200d\u0bbe") == "க\u0bca"
    assert clean(" \u200b\n\u00a0") == ""


@pytest.mark.parametrize(
    "text, kept",
    [("தமிழ் is a language", False), ("தமிழ் (Tamil) ஒரு மொழி", True), ("கa", True),  # exactly half
     ("கab", False), ("1234 + 5678", False), ("", False), ("हिन्दी भाषा", False)],
)  # fmt: skip
def test_an_article_is_kept_by_its_share_of_tamil_letters(text, kept):
    assert wikipedia.mostly_tamil(text) == kept


def sample_articles():
    """(title, body) of the real articles."""
    if not SAMPLE.exists():
        pytest.skip("data/tamil_wiki/AA_wiki_00.txt is not there")
    text = SAMPLE.read_text(encoding="utf-8")
    found = re.findall(r'<doc id="\d+" url=".*" title="(.*)">\n.*\n((?s:.*?))</doc>', text)
    assert len(found) == 88
    return found


def test_real_articles_lose_nothing():
    for title, body in sample_articles():
        clean = wikipedia.clean_article(body)
        seen = [c for c in unicodedata.normalize("NFD", body) if not c.isspace() and unicodedata.category(c) != "Cf"]
        assert [c for c in unicodedata.normalize("NFD", clean) if not c.isspace()] == seen, title
        assert unicodedata.is_normalized("NFC", clean) and "\n\n" not in clean and "\u00a0" not in clean
        assert wikipedia.clean_article(clean) == clean


def test_real_articles_are_kept_but_for_those_without_a_body():
    dropped = [title for title, body in sample_articles() if not wikipedia.mostly_tamil(wikipedia.clean_article(body))]
    assert dropped == [title for title, body in sample_articles() if not body.strip()]
    assert "முதற் பக்கம்" in dropped and len(dropped) < 10


# The API


@pytest.mark.parametrize("batch", [None, 2, 5])
def test_all_articles_come_one_request_each(tmp_path, batch):
    server = a_wiki(batch=batch)
    with serving(server) as address:
        assert wikipedia.read_api(address + "/w/api.php", tmp_path) == TOTAL
    assert articles(tmp_path) == TEXTS
    assert len(server.asked) == TOTAL
    for query, headers in server.asked:
        assert query.items() >= dict(maxlag="5", prop="extracts", explaintext="1", generator="allpages").items()
        assert headers["User-Agent"].startswith("tiny-dllm") and "gzip" in headers["Accept-Encoding"]


def test_trouble_passes(tmp_path, pauses):
    trouble = {1: error("maxlag", Retry_After=7), 2: error("maxlag"), 4: cut, 5: status(503)}
    trouble |= {6: status(429, Retry_After="30"), 8: status(503, Retry_After=86400)}
    server = a_wiki(trouble=trouble)
    with serving(server) as address:
        wikipedia.read_api(address, tmp_path)
    assert articles(tmp_path) == TEXTS
    assert pauses == [7, 2, 1, 2, 30, 300]  # a day is longer than anyone waits
    assert all(server.asked[n][0] == server.asked[n - 1][0] for n in trouble)  # the same question again


def test_attempts_are_bounded_and_what_came_is_kept(tmp_path, pauses):
    server = a_wiki(trouble={n: status(500) for n in range(3, 100)})
    with serving(server) as address:
        with pytest.raises(UserError, match="500"):
            wikipedia.read_api(address, tmp_path)
        assert len(server.asked) == 2 + 6 and pauses == [1, 2, 4, 8, 16]
        assert [path.name for path in tmp_path.iterdir()] == ["tamil_wiki_api.jsonl"]
        server.trouble = {}
        wikipedia.read_api(address, tmp_path)
    assert articles(tmp_path) == TEXTS
    assert len(server.asked) == 8 + TOTAL - 2


@pytest.mark.parametrize("trouble, named", [(status(403), "403"), (error("badvalue"), "badvalue")])
def test_a_refusal_is_final(trouble, named, tmp_path, pauses):
    server = a_wiki(trouble={1: trouble})
    with serving(server) as address, pytest.raises(UserError, match=named):
        wikipedia.read_api(address, tmp_path)
    assert len(server.asked) == 1 and pauses == []


def test_other_pages_are_dropped_and_none_comes_twice(tmp_path):
    other = [(1, ""), (2, "An article in English, about தமிழ்."), PAGES[0], PAGES[1], (11, "மாறிய கட்டுரை"), PAGES[2]]
    with serving(a_wiki(pages=other)) as address:
        assert wikipedia.read_api(address, tmp_path) == 3
    assert articles(tmp_path) == TEXTS[:3]


def test_the_limit_counts_articles_and_can_be_raised(tmp_path):
    server = a_wiki(pages=[(1, "")] + PAGES)
    with serving(server) as address:
        assert wikipedia.read_api(address, tmp_path, 2) == 2
        assert articles(tmp_path) == TEXTS[:2] and len(server.asked) == 3
        wikipedia.read_api(address, tmp_path, 2)
        assert articles(tmp_path) == TEXTS[:2] and len(server.asked) == 3
        wikipedia.read_api(address, tmp_path, 4)
        assert articles(tmp_path) == TEXTS[:4] and len(server.asked) == 5
        assert wikipedia.read_api(address, tmp_path) == wikipedia.read_api(address, tmp_path) == TOTAL
        assert articles(tmp_path) == TEXTS and len(server.asked) == TOTAL + 1
        assert wikipedia.read_api(address, tmp_path, 1) == 1
        assert articles(tmp_path) == TEXTS[:1]


@pytest.mark.parametrize("lost", [1, 30, 100])
def test_a_line_that_was_written_in_part_is_asked_for_again(tmp_path, lost):
    saved = tmp_path / "tamil_wiki_api.jsonl"
    with serving(a_wiki()) as address:
        wikipedia.read_api(address, tmp_path, 3)
        os.truncate(saved, saved.stat().st_size - lost)
        wikipedia.read_api(address, tmp_path)
    assert articles(tmp_path) == TEXTS


def test_a_damaged_line_is_one_sentence(tmp_path):
    saved = tmp_path / "tamil_wiki_api.jsonl"
    with serving(a_wiki()) as address:
        wikipedia.read_api(address, tmp_path, 3)
        saved.write_bytes(b"{" + saved.read_bytes())
        with pytest.raises(UserError, match="is damaged; delete it"):
            wikipedia.read_api(address, tmp_path)


def test_without_an_article_in_tamil_the_old_file_stays(tmp_path):
    (tmp_path / "tamil_wiki.txt").write_text("old")
    nothing = a_wiki(pages=[(1, "English"), (2, "")])
    with serving(nothing) as address, pytest.raises(UserError, match="no article in Tamil"):
        wikipedia.read_api(address, tmp_path)
    assert (tmp_path / "tamil_wiki.txt").read_text() == "old" and not list(tmp_path.glob("*.tmp"))


def test_ctrl_c_leaves_a_state_that_goes_on(tmp_path):
    waiting = threading.Event()
    server = a_wiki(trouble={4: lambda server: (waiting.set(), time.sleep(1), server.busy.release())})
    with serving(server) as address:
        given = tmp_path, f"t.API = {address!r}", "--api", "--limit", 99
        process = start(command(*given))
        assert waiting.wait(300)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=300) == (b"", b"") and process.returncode == 130
        assert not (tmp_path / "tamil_wiki.txt").exists()
        time.sleep(1)  # the server is through with the request that nobody waits for
        code, out, err = run_with(*given)
    assert (code, out, err) == (0, f"{tmp_path / 'tamil_wiki.txt'}\n", f"{TOTAL} articles\n")
    assert articles(tmp_path) == TEXTS
    assert len(server.asked) == TOTAL + 1


def test_without_a_limit_it_takes_some_and_says_how_to_get_more(tmp_path):
    with serving(a_wiki()) as address:
        code, out, err = run_with(tmp_path, f"t.API = {address!r}; t.FIRST_ARTICLES = 3", "--api")
    assert (code, out) == (0, f"{tmp_path / 'tamil_wiki.txt'}\n") and articles(tmp_path) == TEXTS[:3]
    note, count = err.splitlines()
    assert "3 articles" in note and "--limit N" in note and "--dump" in note and count == "3 articles"
    assert wikipedia.FIRST_ARTICLES == 200


def drip(connection, first):
    """Sends `first`, and then a byte now and then, for four seconds."""
    pause = threading.Event().wait  # not time.sleep, which tests take away
    with contextlib.suppress(OSError):
        for piece in itertools.chain([first], itertools.repeat(b"x", 80)):
            connection.sendall(piece)
            pause(0.05)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n"


@pytest.mark.parametrize("head", [HEAD + b"\r\n", HEAD + b"X-Name: "])
def test_an_answer_that_drips_is_asked_for_again(head, tmp_path, monkeypatch):
    monkeypatch.setattr(wikipedia, "ANSWER_SECONDS", 1)
    server = a_wiki(trouble={3: lambda server: (server.busy.release(), drip(server.connection, head))})
    with serving(server) as address:
        assert wikipedia.read_api(address, tmp_path) == TOTAL
    assert articles(tmp_path) == TEXTS and len(server.asked) == TOTAL + 1


def page_of(content):
    """Trouble: an answer of these bytes."""
    return lambda server: (
        server.busy.release(), server.send_response(200), server.end_headers(), server.wfile.write(content)
    )  # fmt: skip


def test_an_answer_that_is_no_answer_is_asked_for_again(tmp_path, pauses, monkeypatch):
    monkeypatch.setattr(wikipedia, "LARGEST_ANSWER", 100_000)
    trouble = {1: page_of(b"<html>"), 2: page_of(b"[1]"), 3: page_of(b"[" * 90_000), 4: page_of(b" " * 200_000)}
    server = a_wiki(trouble=trouble)
    with serving(server) as address:
        assert wikipedia.read_api(address, tmp_path) == TOTAL
    assert articles(tmp_path) == TEXTS and pauses == [1, 2, 4, 8]


def test_no_network_is_one_sentence(tmp_path):
    refused = run_with(tmp_path, f"t.API = {NOWHERE!r}; t.ATTEMPTS = 1", "--api", "--limit", 3)
    assert_refused(refused, 1, "127.0.0.1:9", "ConnectionError")


@pytest.mark.parametrize(
    "arguments, word",
    [("--api --limit 0", "from 1 to 1,000,000"), ("--api --limit 1000001", "from 1 to 1,000,000"), ("", "--api"),
     ("--api --limit many", "whole number"), ("--dump --limit 3", "--api"), ("--api --dump", "not allowed"),
     ("--dump=", "empty")],
)  # fmt: skip
def test_a_wrong_command_line_is_one_sentence(arguments, word):
    assert_refused(run_script("tamil_wikipedia.py", *arguments.split()), 2, word)


def test_help_shows_an_example(tmp_path):
    code, out, err = run_script("tamil_wikipedia.py", "--help", cwd=tmp_path)
    assert (code, err) == (0, "") and "python tamil_wikipedia.py --api --limit 1000" in out


# The dump: its download

NEW, OLD = bytes(range(256)) * 2000, b"old" * 100_000  # 512 kB, 300 kB


class Files(Quiet):
    """A server of one file, with ranges. `cuts`: for each answer to come, after how many bytes the connection ends."""

    content, mark, cuts, begun, tells_length = NEW, '"new"', [], [], True

    def do_GET(self):
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        part = begin and self.headers["If-Range"] == self.mark
        self.begun.append(int(begin[1]) if part else 0)
        body = self.content[self.begun[-1] :]
        self.send_response(206 if part else 200)
        self.send_header("ETag", self.mark)
        if self.tells_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)


def some_files(**settings):
    return type("SomeFiles", (Files,), {"begun": [], **settings})


def test_a_download_that_was_cut_goes_on(tmp_path, pauses):
    server = some_files(cuts=[200_000, 100_000, 0])
    with serving(server) as address:
        assert wikipedia.fetch_dump(address, tmp_path / "dump").read_bytes() == NEW
        assert len(server.begun) == 4 and pauses == [1, 2, 4]
        assert server.begun[0] == 0 and server.begun[1] > 100_000 and server.begun[3] == server.begun[2] > 200_000
        wikipedia.fetch_dump(address, tmp_path / "dump")
    assert len(server.begun) == 4 and [path.name for path in tmp_path.iterdir()] == ["dump"]


@pytest.mark.parametrize("before", [{}, dict(content=OLD, mark='"old"')])
def test_after_a_download_that_stays_cut_another_run_goes_on_unless_the_dump_is_a_newer_one(before, tmp_path, pauses):
    first, second = some_files(cuts=[200_000] + [0] * 5, **before), some_files()
    with serving(first) as address, pytest.raises(UserError, match="run again"):
        wikipedia.fetch_dump(address, tmp_path / "dump")
    assert not (tmp_path / "dump").exists() and len(first.begun) == 6
    assert (tmp_path / "dump.part").stat().st_size > 100_000
    with serving(second) as address:
        assert wikipedia.fetch_dump(address, tmp_path / "dump").read_bytes() == NEW
    assert second.begun[0] == 0 if before else second.begun[0] > 100_000


def test_a_download_that_was_stopped_before_its_renaming(tmp_path):
    (tmp_path / "dump.part").write_bytes(NEW)
    (tmp_path / "dump.etag").write_text('"new"')
    server = some_files()
    with serving(server) as address:
        assert wikipedia.fetch_dump(address, tmp_path / "dump").read_bytes() == NEW
    assert server.begun == [len(NEW) - 1]


@pytest.mark.parametrize("head, kept", [(HEAD + b"\r\n", ["dump.etag", "dump.part"]), (HEAD + b"X-Name: ", [])])
def test_a_dump_that_drips_is_as_good_as_cut(head, kept, tmp_path, pauses, monkeypatch):
    for name, value in dict(ANSWER_SECONDS=1, STRETCH=1, ATTEMPTS=2).items():
        monkeypatch.setattr(wikipedia, name, value)

    class Drip(Quiet):
        def do_GET(self):
            drip(self.connection, head)

    with serving(Drip) as address, pytest.raises(UserError, match="Connection|Timeout"):
        wikipedia.fetch_dump(address, tmp_path / "dump")
    assert sorted(path.name for path in tmp_path.iterdir()) == kept and len(pauses) == 1


def test_a_slow_dump_comes_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(wikipedia, "STRETCH", 0.2)

    class Slow(Files):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "20000")
            self.end_headers()
            for _ in range(20):  # some 20,000 bytes a second
                self.wfile.write(b"x" * 1000)
                time.sleep(0.05)

    with serving(Slow) as address:
        assert wikipedia.fetch_dump(address, tmp_path / "dump").read_bytes() == b"x" * 20_000


def test_neither_no_network_nor_a_file_of_unknown_length_leaves_a_dump(tmp_path, pauses):
    with pytest.raises(UserError, match="127.0.0.1:9"):
        wikipedia.fetch_dump(NOWHERE, tmp_path / "dump")
    assert list(tmp_path.iterdir()) == []
    with serving(some_files(tells_length=False, cuts=[200_000] * 6)) as address, pytest.raises(UserError):
        wikipedia.fetch_dump(address, tmp_path / "dump")
    assert not (tmp_path / "dump").exists()


# The dump: its text


@pytest.fixture
def tiny_dump():
    """A made-up dump of nine pages, where data/ has it."""
    if not TINY_DUMP.exists():
        pytest.skip("data/tamil_wiki/synthetic-tiny-pages-articles.xml.bz2 is not there")
    return TINY_DUMP


@pytest.fixture
def empty_dump(tmp_path):
    """A whole dump without a page."""
    path = tmp_path / "empty.xml"
    path.write_text("<mediawiki>\n</mediawiki>\n")
    return path


def made_up_extractor(path, body):
    """A program that takes wikiextractor's place; `put` writes one article."""
    text = f"#!{sys.executable}\nimport json, os, subprocess, sys, time\n"
    text += 'put = lambda text: print(json.dumps({"id": "1", "text": text}), flush=True)\n'
    path.write_text(text + textwrap.dedent(body), encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_the_real_wikiextractor_on_a_tiny_dump(tiny_dump, tmp_path):
    try:
        program = wikipedia.find_extractor()
    except UserError:
        pytest.skip("wikiextractor is not installed")
    code, out, err = run_with(tmp_path, "pass", "--dump", tiny_dump)
    assert (code, out, err) == (0, f"{tmp_path / 'tamil_wiki.txt'}\n", "3 articles\n")
    found = articles(tmp_path)
    assert [text.split()[0] for text in found] == ["தமிழ்", "இது", "ஊர்"]  # no redirects, no other namespaces
    assert "தமிழின் வரலாறு 2000 ஆண்டுகளுக்கும் மேலானது." in found[0] and "a < b மற்றும் c > d." in found[0]
    assert found[1].count("திருக்குறள் ஒரு நூல்.") == 20
    assert "க்ஷ." in found[2] and "இரண்டாம் பத்தி." in found[2].splitlines()
    assert not re.search("[\u200b-\u200d\ufeff\u00a0]|&lt;|&amp;|ref|wikitable", "".join(found))
    assert wikipedia.read_dump(program, tiny_dump, tmp_path) == 3
    assert articles(tmp_path) == found


@pytest.mark.parametrize("kept", [1200, 1700])
def test_a_truncated_dump_is_one_sentence(tiny_dump, tmp_path, kept):
    (tmp_path / "cut.xml.bz2").write_bytes(tiny_dump.read_bytes()[:kept])
    (tmp_path / "tamil_wiki.txt").write_text("old")
    program = made_up_extractor(tmp_path / "wikiextractor", "put('தமிழ்')")
    setup = f"t.find_extractor = lambda: {program!r}"
    assert_refused(run_with(tmp_path, setup, "--dump", tmp_path / "cut.xml.bz2"), 1, "not a whole", "cut.xml.bz2")
    assert (tmp_path / "tamil_wiki.txt").read_text() == "old"


def test_what_is_a_whole_dump(tiny_dump, empty_dump, tmp_path):
    wikipedia.check_dump(tiny_dump)
    wikipedia.check_dump(empty_dump)
    (tmp_path / "cut.xml").write_text("<mediawiki>\n<page>\n")
    (tmp_path / "noise.xml.bz2").write_bytes(b"noise")
    (tmp_path / "noise.xml").write_bytes(b"\xff\xfe\x00")
    for name in ("cut.xml", "noise.xml.bz2", "noise.xml"):
        with pytest.raises(UserError, match="not a whole"):
            wikipedia.check_dump(tmp_path / name)
    (tmp_path / "untitled.xml").write_text("<mediawiki>\n<page>\n<ns>0</ns>\n</page>\n</mediawiki>\n")
    with pytest.raises(UserError, match="a page has no title"):
        wikipedia.check_dump(tmp_path / "untitled.xml")
    with pytest.raises(UserError, match="no file"):
        wikipedia.check_dump(tmp_path / "missing.xml")
    with pytest.raises(UserError, match="no ordinary file"):
        wikipedia.check_dump(tmp_path)


def test_a_missing_wikiextractor_is_one_sentence_before_any_download(tmp_path):
    setup = f"sys.executable = '/nowhere/python'; t.DUMP = {NOWHERE!r}"
    assert_refused(run_with(tmp_path, setup, "--dump", PATH=str(tmp_path)), 1, "wikiextractor", "pip install")


@pytest.mark.parametrize(
    "ending, word",
    [("print('Traceback\\nValueError: bad page', file=sys.stderr); sys.exit(3)", "bad page"),
     ("sys.exit(4)", "status 4"), ("print('REDUCER_EXIT incomplete: 7 pages', file=sys.stderr)", "7 pages")],
)  # fmt: skip
def test_a_wikiextractor_that_fails_leaves_the_old_file(empty_dump, tmp_path, ending, word):
    (tmp_path / "tamil_wiki.txt").write_text("old")
    program = made_up_extractor(tmp_path / "extractor", "put('தமிழ்')\n" + ending)
    with pytest.raises(UserError, match=word):
        wikipedia.read_dump(program, empty_dump, tmp_path)
    assert (tmp_path / "tamil_wiki.txt").read_text() == "old" and not list(tmp_path.glob("*.tmp"))


def test_wikiextractor_gets_its_flags_and_its_text_is_decoded(empty_dump, tmp_path, monkeypatch):
    monkeypatch.setattr(wikipedia.os, "cpu_count", lambda: 1)
    body = "put('தமிழ்' * 99 + repr(sys.argv))\nput('அ &lt; ஆ &amp;lt;')\nput('English')"
    program = made_up_extractor(tmp_path / "extractor", body)
    assert wikipedia.read_dump(program, empty_dump, tmp_path) == 2
    flags, text = articles(tmp_path)
    for flag in ("'--json'", "'--no-templates'", "'--discard_empty'", "'--processes', '1'", repr(str(empty_dump))):
        assert flag in flags
    assert text == "அ < ஆ &lt;"


def test_ctrl_c_ends_wikiextractor_and_its_processes(empty_dump, tmp_path):
    body = """
        child = subprocess.Popen(["sleep", "300"])
        open(__file__ + ".pids", "w").write(f"{os.getpid()} {child.pid}\\n")
        put("தமிழ்")
        time.sleep(300)
        """
    program = made_up_extractor(tmp_path / "extractor", body)
    process = start(command(tmp_path, f"t.find_extractor = lambda: {program!r}", "--dump", empty_dump))
    pids, deadline = tmp_path / "extractor.pids", time.monotonic() + 300
    while not (pids.exists() and pids.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=300)[1] == b"" and process.returncode == 130
    assert not (tmp_path / "tamil_wiki.txt").exists() and not list(tmp_path.glob("*.tmp"))
    for pid in map(int, pids.read_text().split()):
        assert not is_running(pid)


def is_running(pid):
    """Whether a process is there and has not ended."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state != "" and not state.startswith("Z")


def test_memory_does_not_grow_with_the_dump(empty_dump, tmp_path):
    program = made_up_extractor(tmp_path / "extractor", "for n in range(1500): put('தமிழ் ' * 2000)")
    code = f"""
        import pathlib, resource, sys; sys.path.insert(0, {str(ROOT)!r})
        import tamil_wikipedia as t
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        t.read_dump({program!r}, pathlib.Path({str(empty_dump)!r}), pathlib.Path({str(tmp_path)!r}))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print((after - before) // (1024 if sys.platform == "linux" else 1024**2))
        """
    python = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(python, env=environment(), capture_output=True, timeout=300)
    assert (tmp_path / "tamil_wiki.txt").stat().st_size > 45e6
    assert int(done.stdout) < 15  # MB


def test_a_file_of_that_name_is_the_users_own(tmp_path):
    """Two runs at once have a temporary file each, and neither takes one that was there."""
    path, own = tmp_path / "tamil_wiki.txt", tmp_path / "tamil_wiki.txt.tmp"
    own.write_text("mine", encoding="utf-8")

    def other_run():
        yield "அ"
        assert wikipedia.write_articles(["ஆ"], path) == 1 and path.read_text(encoding="utf-8") == "ஆ\n"
        yield "இ"

    assert wikipedia.write_articles(other_run(), path) == 2
    assert path.read_text(encoding="utf-8") == "அ\n\nஇ\n" and own.read_text(encoding="utf-8") == "mine"
    assert {file.name for file in tmp_path.iterdir()} == {path.name, own.name}


def test_an_article_holds_nothing_that_a_text_may_not(tmp_path):
    text = wikipedia.clean_article("அ\ud800க\x01\x85 கா\x00")
    assert text == "அக\nகா"
    wikipedia.write_articles([text], tmp_path / "tamil_wiki.txt")


# ---- Answers of another shape, and runs beside each other
CASES = sorted((ROOT / "data" / "cases" / "wiki").glob("*.json"))


@pytest.mark.parametrize("answer", [
    {"error": "x"}, {"query": None}, {"query": {"pages": None}}, {"query": {"pages": [{"title": "x", "extract": "x"}]}},
    {"query": {"pages": [{"pageid": 1, "extract": None}]}}, {"query": {"pages": [1]}}, {"query": {"pages": {"a": 1}}},
    {"query": {"pages": [{"pageid": "x", "extract": "x"}]}}, {"continue": "x"}, {"continue": {}}, {"continue": [1]},
    {"continue": {"gapcontinue": None}}, {"continue": {"gapcontinue": "\ud800"}},
    {"query": {"pages": [{"pageid": float("inf"), "extract": "x"}]}}, {}, {"query": {}}, {"warnings": {"main": "x"}},
    [], "", ["ab"], [["batchcomplete", True]], {"batchcomplete": 1}, {"errors": [{"code": "x"}]}, {"parse": {}},
    {"query": {"pages": {}}, "continue": {"gapcontinue": "b"}}, {"query": {"pages": ""}},
    *({"query": {"pages": [{"pageid": number, "extract": "அ"}]}} for number in (True, 1.5, -1, "1")),
    *({"query": {"pages": []}, "continue": place} for place in (
        {"gapcontinue": "x" * 2000}, {"\ud800": "a"}, {"format": "xml"}, {"action": "logout", "gapcontinue": "b"})),
    *(json.loads(path.read_text(encoding="utf-8")) for path in CASES),
])  # fmt: skip
def test_an_answer_of_another_shape_is_one_sentence_and_nothing_of_it_is_stored(answer, tmp_path, monkeypatch):
    monkeypatch.setattr(wikipedia, "ask_api", lambda session, address, place: answer)
    monkeypatch.setattr(wikipedia, "patiently", lambda send, address, bar: wikipedia_answer(send))
    path = tmp_path / "tamil_wiki_api.jsonl"
    with pytest.raises(UserError):
        wikipedia.read_api("x", tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    assert len(lines) <= 1  # that never goes on: its first answer is as it should be
    assert not (tmp_path / "tamil_wiki.txt").exists()


def wikipedia_answer(send):
    """What `patiently` gives for a server that answers at once; its errors as ask_api sees them."""
    answer = send()
    if "error" in answer:
        raise UserError("refused")
    return answer


def test_places_that_lead_in_a_circle_are_an_error(tmp_path, monkeypatch):
    circle = {"a": 1, "1": "b", "b": "1"}  # 1 and "1" are the same to a server
    asked = []

    def ask(session, address, place):
        asked.append(place)
        return {"query": {"pages": []}, "continue": {"gapcontinue": circle[str(place.get("gapcontinue", "a"))]}}

    monkeypatch.setattr(wikipedia, "ask_api", ask)
    with pytest.raises(UserError, match="from where it was asked"):
        wikipedia.read_api("x", tmp_path)
    assert len(asked) == 3


def test_headers_that_are_no_numbers_and_addresses_that_are_none(tmp_path, pauses):
    trouble = {1: status(503, Retry_After="9" * 5000), 2: status(302, Location="http://[::bad")}
    with serving(a_wiki(trouble=trouble)) as address:
        assert wikipedia.read_api(address, tmp_path) == TOTAL


def test_an_article_that_two_runs_saved_is_written_once(tmp_path):
    lines = [{"articles": {"1": "அ"}, "continue": {"gapcontinue": "b"}}, {"articles": {"2": "ஆ"}, "continue": None}]
    saved = "".join(json.dumps(line) + "\n" for line in [lines[0], *lines])
    (tmp_path / "tamil_wiki_api.jsonl").write_text(saved, encoding="utf-8")
    assert wikipedia.read_api(NOWHERE, tmp_path) == 2
    assert (tmp_path / "tamil_wiki.txt").read_text(encoding="utf-8") == "அ\n\nஆ\n"
    assert wikipedia.read_api(NOWHERE, tmp_path, enough=1) == 2  # what is there does not shrink
    assert wikipedia.read_api(NOWHERE, tmp_path, 1) == 1  # unless one says so
