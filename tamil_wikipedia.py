"""Where does a lot of modern Tamil prose come from? This script downloads Tamil Wikipedia into data/tamil_wiki.txt.

Run:        python tamil_wikipedia.py --api                 the first 200 articles, one request for each
            python tamil_wikipedia.py --api --limit 1000    the first 1,000
            python tamil_wikipedia.py --dump                all of them, from one large download (the dump)
            python tamil_wikipedia.py --dump FILE           the same from a dump that you have (.xml or .xml.bz2)
Builds on:  tools/ and tamil_dataset.py (normalize).
Last line:  the path of the text, ending in `data/tamil_wiki.txt`.

--api goes by title, from the first Tamil letter on. The dump alone has titles that begin with a digit or a Latin
letter. data/tamil_wiki_api.jsonl keeps what has come. Stop at any time, and the next run goes on from there. Delete
that file to begin again. A download of the dump goes on in the same way.

--dump runs the program wikiextractor 3.1.0, which requirements.txt installs (tried with Python 3.11, 3.12 and 3.13).
Its licence is AGPL-3.0. So it runs as a program of its own and is never imported.

In the text a line is a paragraph or a heading. A blank line stands between two articles. Each run writes it anew. The
articles are by the contributors of https://ta.wikipedia.org, under CC BY-SA 4.0. Say so when you pass them on.
"""

import bz2
import contextlib
import functools
import html
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

import tamil_dataset as tamil
from tools.command_line import Parser, UserError, between, run
from tools.files import CONTROL, ROOT, within

FOLDER = ROOT / "data"
API = "https://ta.wikipedia.org/w/api.php"
DUMP = "https://dumps.wikimedia.org/tawiki/latest/tawiki-latest-pages-articles.xml.bz2"

HEADERS = {  # Wikimedia wants to know who asks and refuses a library's own name
    "Accept-Encoding": "gzip",
    "User-Agent": "tiny-dllm/1.0 (tamil_wikipedia.py of an educational project; one request at a time)",
}
FIRST_ARTICLES = 200  # without --limit
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of an answer
ANSWER_SECONDS = 120  # for an article, or for the headers of the dump and of all redirections to it
LARGEST_ANSWER = 2**25  # bytes, where Wikipedia allows an article 2**21
SLOWEST, STRETCH = 1000, 60  # fewer bytes a second over so many seconds count as a cut. The dump may take hours.
ATTEMPTS = 6  # with pauses of 1, 2, 4, 8 and 16 seconds between them, unless the server asks for others
LONGEST_WAIT = 300  # seconds, whatever the server asks for
LONGEST_PLACE = 1000  # characters that say where to go on, where a title has 255 bytes

QUERY = dict(  # www.mediawiki.org/wiki/API:Allpages, Extension:TextExtracts, API:Continue, Manual:Maxlag_parameter
    action="query", format="json", formatversion=2, maxlag=5,  # maxlag: a busy server may put us off
    generator="allpages", gapfrom="அ", gapfilterredir="nonredirects", gaplimit=1,
    prop="extracts", explaintext=1, exlimit=1,  # the whole text of one page, since nobody may ask for two
    exsectionformat="plain",  # headings without ==, as wikiextractor writes them
)  # fmt: skip

TAMIL_LETTER = re.compile("[\u0b80-\u0bff]")  # letters and vowel signs
OTHER_LETTER = re.compile(r"[^\W\d_\u0b80-\u0bff]")
TAMIL_SHARE = 0.5


def clean_article(text):
    """A text in NFC without invisible signs and blank lines, with single spaces. Nothing visible is lost."""
    text = CONTROL.sub("", "\n".join(text.splitlines()))  # splitlines() knows every kind of line break
    lines = tamil.normalize(text).split("\n")
    return "\n".join(line for line in lines if line)


def mostly_tamil(text):
    """Whether a text has Tamil letters and they are at least TAMIL_SHARE of all its letters."""
    letters = len(TAMIL_LETTER.findall(text))
    return letters > 0 and letters >= TAMIL_SHARE * (letters + len(OTHER_LETTER.findall(text)))


def write_articles(articles, path):
    """Writes texts with a blank line between two. Returns their number. Raises UserError if there is none."""
    temporary, count = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp"), 0
    try:
        with open(temporary, "x", encoding="utf-8", newline="\n") as file:  # x: nobody else's
            for count, text in enumerate(articles, 1):
                file.write(f"{text}\n" if count == 1 else f"\n{text}\n")
            file.flush()
            os.fsync(file.fileno())
        if not count:
            raise UserError(f"no article in Tamil was found; {path} is as it was before.")
        os.replace(temporary, path)  # until here, what was there stays
    finally:
        temporary.unlink(missing_ok=True)
    return count


def patiently(send, address, bar):
    """Returns send(), tried up to ATTEMPTS times. The bar shows the reason of a wait. Raises UserError."""
    import requests

    for attempt in range(ATTEMPTS):
        try:
            return send()
        except UserError:  # which is a ValueError, too
            raise
        except (requests.RequestException, TimeoutError, ValueError) as problem:  # ValueError: an address that is none
            response = getattr(problem, "response", None)
            reason = type(problem).__name__ if response is None else str(problem).split(" for url")[0]
        # a status 4xx is final, except 429, "too many requests"
        refused = response is not None and 400 <= response.status_code < 500 and response.status_code != 429
        if refused or attempt == ATTEMPTS - 1:
            break
        asked = "" if response is None else response.headers.get("Retry-After", "")
        seconds = min(int(asked[:9]), LONGEST_WAIT) if asked.isdecimal() else 2**attempt
        bar.set_description(f"{reason}, waiting {seconds} s")
        time.sleep(seconds)
        bar.set_description()
    raise UserError(f"{address} did not give what was asked for ({reason}); what has come is kept, so run again later.")


# ---- One article after the other, from the API
def ask_api(session, address, place):
    """The answer to one request. place: the parameters to go on from. Raises requests.RequestException."""
    import requests

    def send():
        content = bytearray()
        with session.get(address, params=QUERY | place, headers=HEADERS, timeout=TIMEOUT, stream=True) as response:
            for piece in response.iter_content(2**16):
                content += piece
                if len(content) > LARGEST_ANSWER:
                    raise requests.RequestException("an answer larger than any article", response=response)
        return response, content

    response, content = within(ANSWER_SECONDS, send)
    response.raise_for_status()
    try:
        answer = json.loads(content)
        if not isinstance(answer, dict):
            raise ValueError
    except (ValueError, RecursionError):
        raise requests.RequestException("an answer that is no JSON object", response=response)
    if "error" in answer:  # these come with status 200
        code = str(answer["error"].get("code", "") if isinstance(answer["error"], dict) else answer["error"])[:80]
        code = CONTROL.sub("?", code).replace("\n", " ")
        if not re.match("maxlag|ratelimited|readonly|internal_api_error", code):  # these pass
            raise UserError(f"{address} refuses the request ({code}); what has come is kept.")
        raise requests.RequestException(code, response=response)
    return answer


def new_articles(answer, seen):
    """The articles of an answer, {page id: clean text}, that are Tamil and whose id is not in `seen`.

    A page without "extract" was listed before its turn. Its text comes with a later answer. Where no page is left
    there is no "query". Raises UserError for an answer of another shape.
    """
    try:
        listed = [] if answer.get("batchcomplete") is True and "query" not in answer else answer["query"]["pages"]
        pages = {page["pageid"]: page["extract"] for page in listed if "extract" in page}
        if not isinstance(listed, list) or not all(type(number) is int and number > 0 for number in pages):
            raise TypeError
        texts = {str(number): clean_article(text) for number, text in pages.items()}
    except (AttributeError, TypeError, KeyError):
        raise UserError("the API gave an answer of another shape than it documents; nothing of it is kept.")
    return {page: text for page, text in texts.items() if page not in seen and mostly_tamil(text)}


def is_place(after):
    """Whether an answer's "continue" can be asked for: a few short parameters that are none of QUERY's."""
    if not isinstance(after, dict) or not after or not all(type(each) in (str, int) for each in after.values()):
        return False
    text = "".join(map(str, [*after, *after.values()]))
    return len(text) <= LONGEST_PLACE and not CONTROL.search(text) and not after.keys() & QUERY.keys()


def marked(place):
    """A place in a form that a set can hold."""
    return frozenset((name, str(value)) for name, value in place.items())


def next_place(answer, asked=None):
    """Where to go on after an answer. None at the end. asked: the places of this run, to which it is added.

    Raises UserError for a place that cannot be asked for, or that was asked for before.
    """
    after = answer.get("continue")
    if after is None:
        return None
    if not is_place(after) or (asked and marked(after) in asked):
        raise UserError("the API says to go on from where it was asked, or from nowhere; nothing of that is kept.")
    if asked is not None:
        asked.add(marked(after))
    return after


def saved_answers(path):
    """Yields what earlier runs have saved. Cuts off a last line that was written in part."""
    size = 0
    with open(path, "a+b") as file:
        file.seek(0)
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(size)
                return
            size += len(line)
            try:
                saved = json.loads(line)
                whole = all(isinstance(text, str) for text in saved["articles"].values()) and "continue" in saved
            except (ValueError, TypeError, KeyError, AttributeError):
                whole = False
            if not whole:
                raise UserError(f"{path} is damaged; delete it to begin again.")
            yield saved


def save_answers(address, path, limit=None):
    """Asks the API until the file `path` has `limit` articles, or all there are. Raises UserError.

    A line holds the articles of an answer and the place to go on from. So both agree whenever the program stops.
    """
    import requests

    seen, place = set(), {}
    for saved in saved_answers(path):
        seen.update(saved["articles"])
        place = next_place(saved)
    asked = {marked(place or {})}
    bar = tqdm(initial=len(seen), total=limit, unit=" articles", disable=None)
    with requests.Session() as session, open(path, "ab") as file, bar:
        while place is not None and (limit is None or len(seen) < limit):
            answer = patiently(functools.partial(ask_api, session, address, place), address, bar)
            articles, place = new_articles(answer, seen), next_place(answer, asked)
            file.write(json.dumps({"articles": articles, "continue": place}).encode() + b"\n")
            file.flush()
            seen.update(articles)
            bar.update(len(articles))


def read_api(address, folder, limit=None, enough=None):
    """Writes tamil_wiki.txt with the first `limit` articles, each once, and returns their number. Raises UserError.

    None: all that earlier runs have saved, and more until there are `enough`.
    """
    path = folder / "tamil_wiki_api.jsonl"
    save_answers(address, path, limit or enough)
    texts = {page: text for saved in saved_answers(path) for page, text in saved["articles"].items()}
    return write_articles(itertools.islice(texts.values(), limit), folder / "tamil_wiki.txt")


# ---- All articles, from the dump
def pieces(response):
    """Yields the bytes of an answer as they come. Raises requests.ConnectionError where they stop or are too slow."""
    import requests
    from urllib3.exceptions import HTTPError

    began, came = time.monotonic(), 0
    try:
        while piece := response.raw.read1(2**16):  # what has come, without waiting for more
            yield piece
            came, seconds = came + len(piece), time.monotonic() - began
            if seconds > STRETCH:
                if came < SLOWEST * seconds:
                    raise requests.ConnectionError("too slow")
                began, came = time.monotonic(), 0
    except HTTPError as problem:  # urllib3's, which requests translates in iter_content alone
        raise requests.ConnectionError(problem)


def fetch_rest(address, part, tag, bar):
    """Downloads what is missing of the file `part`. Raises requests.RequestException.

    The file `tag` holds the server's mark of our version (ETag). A server with a newer version sends that one, from its
    beginning.
    """
    import requests

    version = tag.read_text(encoding="utf-8") if tag.exists() else ""
    have = part.stat().st_size if version and part.exists() else 0
    headers = HEADERS | {"Accept-Encoding": "identity"}
    if have:  # the last byte that we have comes again: a range of nothing would be an error
        headers |= {"Range": f"bytes={have - 1}-", "If-Range": version}
    request = dict(headers=headers, timeout=TIMEOUT, stream=True)
    with within(ANSWER_SECONDS, lambda: requests.get(address, **request)) as response:
        response.raise_for_status()
        begin = have - 1 if response.status_code == 206 else 0
        length = response.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise requests.ConnectionError("an answer of unknown length")
        size = begin + int(length)
        bar.reset(total=size)
        bar.update(begin)
        with open(part, "r+b" if begin else "wb") as file:
            tag.write_text(response.headers.get("ETag", ""), encoding="utf-8")  # not before an older part is gone
            file.seek(begin)
            for piece in pieces(response):
                bar.update(file.write(piece))
    if part.stat().st_size != size:
        raise requests.ConnectionError("the connection was cut")


def fetch_dump(address, path):
    """Returns `path`. Downloads the dump into it first, unless it is there. Raises UserError."""
    if not path.exists():
        part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".etag")
        with tqdm(unit="B", unit_scale=True, disable=None) as bar:
            patiently(lambda: fetch_rest(address, part, tag, bar), address, bar)
        os.replace(part, path)
        tag.unlink()
    return path


def check_dump(path):
    """Raises UserError unless a dump is whole. Where it was cut or a page has no title, wikiextractor never ends."""
    if not path.is_file():
        raise UserError(f"{path} is no ordinary file." if path.exists() else f"there is no file {path}.")
    ending, reason, untitled = "", "its last lines are missing", 0
    try:
        with (bz2.open if path.suffix == ".bz2" else open)(path, "rt", encoding="utf-8") as file:
            while line := file.readline(2**20):
                ending = ending[-99:] + line
                untitled += line.count("<page>") - line.count("<title>")
    except (OSError, EOFError, UnicodeDecodeError) as problem:
        ending, reason = "", str(problem)
    if untitled > 0 and ending.rstrip().endswith("</mediawiki>"):
        ending, reason = "", "a page has no title"
    if not ending.rstrip().endswith("</mediawiki>"):
        raise UserError(f"{path} is not a whole dump ({reason}); move it away, and get it again.")


def find_extractor():
    """The path of the program wikiextractor, from this Python's folder or from PATH. Raises UserError."""
    folders = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    program = shutil.which("wikiextractor", path=folders)
    if not program:
        raise UserError("--dump needs the program wikiextractor; get it by: pip install wikiextractor==3.1.0")
    return program


def extracted_texts(program, dump):
    """Yields the text of every article in a dump. Raises UserError when wikiextractor fails."""
    processes = max(1, min(4, (os.cpu_count() or 1) - 1))  # at most 4, since each takes memory
    command = [program, "--json", "--no-templates", "--discard_empty", "--quiet", "--processes", str(processes)]
    command += ["--output", "-", str(dump.resolve())]
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True) as process:
            try:
                for line in process.stdout:
                    yield html.unescape(json.loads(line)["text"])  # "<" comes as "&lt;"
            except BaseException:  # Ctrl-C, or an error while writing: end it and the processes that it has started
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
                raise
        errors.seek(0)
        complaint = errors.read().decode("utf-8", "replace").strip() or f"exit status {process.returncode}"
    if process.returncode or "incomplete" in complaint:  # it may lose articles and report success
        raise UserError(f"wikiextractor failed: {complaint.splitlines()[-1]}")


def read_dump(program, dump, folder):
    """Writes tamil_wiki.txt with every article of a dump. Returns their number. Raises UserError."""
    check_dump(dump)
    with contextlib.closing(extracted_texts(program, dump)) as texts:
        cleaned = map(clean_article, tqdm(texts, unit=" articles", disable=None))
        return write_articles(filter(mostly_tamil, cleaned), folder / "tamil_wiki.txt")


def main():
    """The command line of tamil_wikipedia.py."""
    parser = Parser(__doc__)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--api", action="store_true", help="ask for one article after the other")
    way.add_argument("--dump", nargs="?", const=DUMP, metavar="FILE", help="all from this dump (default: download it)")
    stop = f"with --api: stop after N articles (default: {FIRST_ARTICLES})"
    parser.add_argument("--limit", type=between(int, 1, 1_000_000), metavar="N", help=stop)
    args = parser.parse_args()
    if args.limit and not args.api:
        parser.error("--limit goes with --api only")
    if args.dump == "":
        parser.error("--dump is an empty text; name a file, or write --dump alone to download it")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops it as Ctrl-C does
    FOLDER.mkdir(exist_ok=True)
    if args.api:
        if not args.limit:
            print(f"the first {FIRST_ARTICLES} articles (--limit N takes N, --dump takes all)", file=sys.stderr)
        count = read_api(API, FOLDER, args.limit, FIRST_ARTICLES)
    else:
        program = find_extractor()  # first, since the download is long
        dump = fetch_dump(DUMP, FOLDER / Path(DUMP).name) if args.dump == DUMP else Path(args.dump)
        count = read_dump(program, dump, FOLDER)
    print(f"{count:,} articles", file=sys.stderr)
    print(FOLDER / "tamil_wiki.txt")


if __name__ == "__main__":
    run(main)
