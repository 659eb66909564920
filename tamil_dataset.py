"""Where does the Tamil verse come from, and what must be done to it?

This script downloads the Thirukkural (1,330 couplets) and four Sangam anthologies from Project Madurai. It takes the
verse out of the pages. It mends what conversions from older fonts broke, and slips of typists whose reading is certain.
It writes data/tamil.txt: one poem after the other, a blank line between two. Numbers, headings, authors' names and
English are left out. A rule looks for letters that may not stand together in Tamil. Four words are still in doubt.

Run:        python tamil_dataset.py                               (a few seconds, once the pages are there)
            python tamil_dataset.py --works thirukkural kuruntokai
            python tamil_dataset.py --stats                       (counts alone, no text)
            python tamil_dataset.py --mended                      (shows each place that was mended or is in doubt)
Builds on:  tools/ alone.
Last line:  the path of the file. With --stats it is the last row of the table.

The raw files stay in data/ as they came. Project Madurai lets its pages be passed on with their header intact.
"""

import html
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tools.command_line import Parser, UserError, run
from tools.files import ROOT, download, write_safely

DATA = ROOT / "data"
TAMIL_TEXT = DATA / "tamil.txt"
THIRUKKURAL = (
    "https://raw.githubusercontent.com/tk120404/thirukkural/40db0c31c6d92a98a1e558f4edf427341810d61a/thirukkural.json"
)
THIRUKKURAL_SHA256 = "00db3a7b6f02917b09bc2b2fb27564e9a21094f2295a8afd79a53b09a17af8e3"
MADURAI = "https://www.projectmadurai.org/pm_etexts/utf8/"

# A letter of Tamil is a vowel by itself, or a consonant with its vowel: க ka, கா kaa, கி ki, and க் k
VOWELS = "அஆஇஈஉஊஎஏஐஒஓஔ"
CONSONANTS = "கஙசஞடணதநபமயரலவழளறன"
GRANTHA = "ஜஶஷஸஹ"  # for words from Sanskrit and other languages
SIGNS = "\u0bbe\u0bbf\u0bc0\u0bc1\u0bc2\u0bc6\u0bc7\u0bc8\u0bca\u0bcb\u0bcc"  # of vowels but a, in the order of VOWELS
PULLI = "\u0bcd"  # the consonant has no vowel
AYTHAM = "ஃ"  # a letter by itself, neither vowel nor consonant
PUNCTUATION = ".,;:!?'\"()-"
LETTER = f"[{VOWELS}{AYTHAM}]|[{CONSONANTS}{GRANTHA}][{SIGNS}{PULLI}]?"  # what counts as one letter in Tamil


# ---- Mending
E_SIGN, O_SIGN, AA_SIGN, I_SIGN, AU_SIGN, LLA = "\u0bc6", "\u0bca", "\u0bbe", "\u0bbf", "\u0bcc", "ள"
TAMIL = "\u0b80-\u0bff"
MISPRINTS = (  # (pattern, replacement, what it is), all from conversions out of older fonts
    ("\u0ba6வ்ரு", f"வ{E_SIGN}ரூ", "an e sign before its letter, in verur (Thirukkural 599)"),
    ("\u0ba6ஒழு", f"ப{E_SIGN}{AA_SIGN}ழு", "an e sign for po, in pozhudu (Ainkurunuru 427)"),
    ("\u0ba6(?=நொ)", "", "an e sign twice (Ainkurunuru 491)"),
    ("\u0ba7 க்", f"{I_SIGN}க்", "an i sign, and a space inside a word (Thirukkural 1192)"),
    ("\u0ba7", I_SIGN, "an i sign as an unassigned character"),
    (f"{PULLI}\u0ba1", AA_SIGN, "an aa sign as an unassigned character"),
    (f"(?<={AA_SIGN})\u0ba1", "", "an aa sign twice"),
    (f"{E_SIGN}{LLA}(?=வ)", AU_SIGN, "an au sign as an e sign and the letter lla"),
    (f"(?<=த){AU_SIGN} ?(?=ளிதின்)", f"{E_SIGN}{LLA}{PULLI}", "the letter lla taken for half an au sign"),
    (f"{AU_SIGN} (?=[{CONSONANTS}]{PULLI}|தல்|வே)", f"{E_SIGN}{LLA}{I_SIGN}", "half an au sign for lla, i sign lost"),
    (f"(?<=த){AU_SIGN} ", f"{E_SIGN}{LLA}{PULLI} ", "half an au sign for lla, pulli lost"),
    (f"(?<=[யள])டு(?![{TAMIL}])", f"{O_SIGN}டு", "an o sign lost"),
    (f"(?<=டோ) (?=[ரள]{PULLI}|ளே|மே\\.|வாள் )", "", "a space inside a word"),
    (f"{AU_SIGN}(?=[{SIGNS}])", f"{E_SIGN}{LLA}", "lla taken for half an au sign"),
    (f"{AU_SIGN}¢", f"{E_SIGN}{LLA}{I_SIGN}", "half an au sign for lla, with an i sign as a cent sign"),
    ("·", AYTHAM, "the aytham as a middle dot"),
    ("மஞ்ஜை", "மஞ்ஞை", "ja for nya"),
    ("இயf", "இய", "a stray f"),
    ("கM", f"கம{PULLI}", "m with pulli as a capital M"),
)
SLIPS = {  # of the typists: patterns in a line
    "மனைக்தக்க": "மனைத்தக்க", "வேண் டற்பாற்": "வேண்டற்பாற்", "காணப்ப படும்": "காணப் படும்", "பொற்யுடைமை": "பொறையுடைமை",
    "அஇஉறைந்": "அடிஉறைந்", "டவர்க்குல்": "டவர்க்கு", "ளுளகு": "ளுலகு", "தவர் க்கு": "தவர்க்கு", "பட் ட ": "பட்ட ",
    "த்ரூஉம்": "தரூஉம்", "த்ருஉம்": "தரூஉம்", "ஒஓதல்": "ஓஒதல்", "மதிக்குப் க்குப்": "மதிக்குப்", "த்ஹுறந்தமை": "துறந்தமை",
    "மரத்ஹ்ட": "மரத்த", "கானத்ஹ்ட": "கானத்த", "பசப்பவௌம்": "பசப்பவும்", "மல்ர்ந்த": "மலர்ந்த", "ந்ன்னுதல்": "நன்னுதல்",
    "நல்வருந்து": "நல்விருந்து", "குநழ்யும்": "குழையும்", "சிறுமையுவு": "சிறுமையுள்", "தார்கண்ட இல்": "தார்கண் இல்",
    "நன்குசலச்": "நன்குசெலச்", "வேல்கொண ": "வேல்கொண் ", "மேற்செனறு": "மேற்சென்று", "வல்லார்நடபு": "வல்லார்நட்பு",
    "மிக்லூக்": "மிகலூக்", "வாள்போல பகை": "வாள்போல் பகை", "எனைத்தொனறு": "எனைத்தொன்று", "பிளிற்ரும்": "பிளிற்றும்",
    "ஏற்ரை": "ஏற்றை", "திரித்ரும்": "திரிதரும்", "பெரு ஞ்சின": "பெருஞ்சின", "நெடுட்ந்தேர்": "நெடுந்தேர்",
    "அரிஞ்ர்": "அரிஞர்", "உய்ர்த்தனென்": "உயிர்த்தனென்", "வீஞ்குபு": "வீங்குபு", "எ ன்ஆம்": "என்ஆம்",
    "வழிவ்ழி": "வழிவழி", "மண்லாடு": "மணலாடு", "அலம்ரும்": "அலமரும்", "மணங்க் ": "மணங் ", "ய்ய்ரன்": "யூரன்", "பிள்லை": "பிள்ளை",
    "பச்ப்பணி": "பசப்பணி", "துங்சுமனை": "துஞ்சுமனை", "தணம் த்ஹுற": "தண்ணம் துறை", "மற்ந்": "மறந்", "நண்றே": "நன்றே",
    "வெள்ளாங்க் ": "வெள்ளாங் ", "ல்ஃதே": "லஃதே", "ச்துப்பினள்": "கதுப்பினள்", "இறைஞ்ச்நின்": "இறைஞ்சிநின்", "நாமக்ல்வு": "நாமகல்வு",
    "வேண்க்கை": "வேங்கை", "வந்த் தனர்": "வந் தனர்", "வண்ட்மிர்": "வண்டிமிர்", "ய்ணீஇய": "யுணீஇய", "பொய்ரும்": "பெயரும்",
    "சூரலஞ்ச் ": "சூரலஞ் ", "சென்ர ": "சென்ற ", "சுரட்திடை": "சுரத்திடை", "நன்ந்தலை": "நனந்தலை", "கம்ழ": "கமழ", "ப்ல்லிதல்": "பல்லிதழ்",
    "அழப்பிர்ந்": "அழப்பிரிந்", "மண்ங்கமழ்": "மணங்கமழ்", "பிழைட்த": "பிழைத்த", "வல்ஞ்சுரி": "வலஞ்சுரி", "காளையொட்ய்": "காளையொடு",
    "யிறந்த் ": "யிறந் ", "உள்லூ": "உள்ளு", "உள்லு": "உள்ளு", "கையற்ப் ": "கையறப் ", "வற்ந்த": "வறந்த", "கற்ங்குரல்": "கறங்குரல்",
    "பெர்ய்ர்க்கு": "பெயற்கு", "வென்ந்தனும்": "வேந்தனும்", "உண்ர்ந்": "உணர்ந்", "நய்னதனை": "நயந்தனை", "சிறந்த் ": "சிறந்து ",
    "செந்ந்நில": "செந்நில", "தன்ணென்": "தண்ணென்", "பெண்டிற்க்கு": "பெண்டிற்கு", "கானல்ஞ் ": "கானலஞ் ", "சூழ்வாரைக் சூ": "சூழ்வாரைச் சூ",
    "ராகிக் தற்": "ராகித் தற்", "மிசைச் தா": "மிசைத் தா", "டுறைக் தொக்க": "டுறைத் தொக்க", "குரலிசைப் கடு": "குரலிசைக் கடு",
    "மராஅத்துக் பொளி": "மராஅத்துப் பொளி", "^ன்னாள்": "முன்னாள்", "பெருங்கை ஏற்றைக்$": "பெருங்கை ஏற்றைத்",
    "தலைச் சிறப்பப்$": "தலைச் சிறப்பச்", "ஏனல் தோன்றிச்$": "ஏனல் தோன்றித்", "நிறம் சுட்டிச்$": "நிறம் சுட்டிக்",
    "பிடியடி நசைஇச்": "பிடியடி நசைஇக்", "எறுழ்த் தடக்கைச்$": "எறுழ்த் தடக்கைக்", "தோப்பி பருகித்": "தோப்பி பருகிக்",
    "முன்துறைச்,$": "முன்துறைக்,", "இனிது இறைஞ்சக்$": "இனிது இறைஞ்சச்", "பெரும்பாட்டு ஈரத்துக்$": "பெரும்பாட்டு ஈரத்துத்",
    "உரிஞ்சக்$": "உரிஞ்சச்", "ஊன்செத்துச்$": "ஊன்செத்துக்", "மய்ங்கினள்": "மயங்கினள்", "வராஅல் அஒரிந்த": "வராஅல் சொரிந்த",
    "இஅள்முலை": "இளமுலை", "தணஅயத்து": "தண்அயத்து", "உழுத ஏஅனல்": "உழுத ஏனல்", "விஅளைந்த": "விளைந்த",
    "பல் தேஅத்து": "பல் தேஎத்து", "தலிஅவன்": "தலைவன்", "பாலொடு தடஇத்": "பாலொடு தடைஇத்", "கிளஇய": "கிளைஇய",
    "செந்நாய் ஏற்றாஇ": "செந்நாய் ஏற்றை",
}  # fmt: skip


def normalize(text):
    """NFC without invisible characters. Lines have no space at either end and never two in a row.

    A long run of signs without a letter is no writing. Its combining signs are dropped, since NFC would sort them in a
    time that grows with the square of their number.
    """
    text = re.sub("[\u200b-\u200d\u2060\ufeff\u00ad]", "", text).replace("\u00a0", " ")
    text = re.sub(r"[^\w\s!-~]{31,}", lambda run: "".join(c for c in run[0] if not unicodedata.combining(c)), text)
    text = unicodedata.normalize("NFC", text)
    return "\n".join(" ".join(line.split()) for line in text.split("\n"))


def mend(text):
    """Repairs MISPRINTS and SLIPS in a text. Returns (text, [what each was])."""
    found = []
    slips = [(wrong, right, f"a slip, {wrong}") for wrong, right in SLIPS.items()]
    for pattern, replacement, what in [*MISPRINTS, *slips]:
        text, count = re.subn(pattern, replacement, text)
        found += [what] * count
    return unicodedata.normalize("NFC", text), found


def mend_poem(poem):
    """Mends each line of a poem. Returns (poem, [(what it was, the line as mended)])."""
    lines = [mend(line) for line in poem.split("\n")]
    return "\n".join(line for line, _ in lines), [(what, line) for line, found in lines for what in found]


# ---- Finding
# What may follow a consonant without a vowel, after the Tolkappiyam. The editions print two words as one. So any
# beginning of a word may follow the consonants that end words, which are the last nine and n.
BEGINNINGS = VOWELS + "கசஞதநபமயவ"
FOLLOWS = dict(zip("கசதபடறஙஞந", ["க", "ச", "த", "ப", "டகசப", "றகசப", "ஙக", "ஞசய", "நதய" + VOWELS]))
FOLLOWS |= {end: BEGINNINGS + also for end, also in zip("ணமயரலவழளன", ["ணட", "", "ங", "ங", "ல", "", "ங", "ள", "னற"])}
LONGER = "|".join(["ஆஅ", "ஈஇ", "ஊஉ", "ஏஎ", "ஐஇ", "ஓஒ", "ஔஉ"])
DOUBTFUL = re.compile(
    "|".join(
        [
            f"^.{PULLI}",  # a word begins without a vowel
            f"^(?!{LONGER})[{VOWELS}][{VOWELS}]",  # or with two, of which the second does not make the first longer
            f"[{GRANTHA}]",  # in verse older than these letters
            *(f"{consonant}{PULLI}[^{follows} ]" for consonant, follows in FOLLOWS.items()),
            f"(?![ணன]{PULLI}ம{PULLI} )[^யரழ]{PULLI}.{PULLI}",  # two without a vowel in a row
            rf"([கசதப]){PULLI} (?!\1|$)",  # at a word's end it is the letter that begins the next word
        ]
    )
)


def doubtful_words(text):
    """The words of a text whose letters may not stand together in Tamil, or may not begin a word. They are misprints.

    A misprint that leaves possible letters is not seen.
    """
    words = re.findall(f"[{TAMIL}]+", text)
    return [word for word, after in zip(words, [*words[1:], ""]) if DOUBTFUL.search(f"{word} {after[:1]}")]


def ill_formed(text):
    """The counts of characters that belong to no Tamil letter, space, line break or punctuation."""
    return Counter(re.sub(rf"{LETTER}|[ \n{PUNCTUATION}]", "", text))


# ---- Verse out of a page
# TAG matches a comment, a tag, or "<!DOCTYPE ...>" and its like. An open one goes on to the end of the page. So each
# character is read once, whatever the page holds. (Python's own parser, 3.11, needs minutes for a megabyte of "<!--".)
# The second "+" of "*+" and "++" forbids going back (possessive).
TAG = re.compile(
    r"""<!--.*?(?:-->|\Z)
      | <[!?][^>]*+(?:>|\Z)
      | <(?P<close>/?)(?P<name>[a-z][^\s/>]*+)(?P<attributes>(?:
            =\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z)) | [^>=]++ | =  # a quoted value may hold ">"
        )*+)(?:>|\Z)""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
BREAKS = {"br", "p", "dd", "td", "tr", "table", "center", "strong", "h2", "h3", "hr"}
NUMBER = "#"  # stands for a table's cell that numbers a poem
MAX_PAGE = 2**21  # bytes, where the largest of the four pages has 795,000


def page_lines(page):
    """The normalised text of a page, as a list of lines that are not empty. Tags alone break lines.

    Colophons in <small> are left out. NUMBER marks a cell that numbers a poem. Raises ValueError where a character is
    given by a number of thousands of digits.
    """
    parts, end, small = [], 0, False
    for tag in TAG.finditer(page):
        parts.append("" if small else html.unescape(page[end : tag.start()]).replace("\n", " "))
        end, name = tag.end(), (tag["name"] or "").lower()
        if name in BREAKS:
            parts.append("\n")
        if name == "td" and re.search(r"\swidth=([\"']?)50\1(?!\S)", tag["attributes"]):
            parts.append(NUMBER)
        if name == "small":
            small = not tag["close"]
    parts.append("" if small else html.unescape(page[end:]).replace("\n", " "))
    return [line for line in normalize("".join(parts)).split("\n") if line]


def split_poems(lines, heading, end):
    """A list of poems, each a list of lines: from each line that `heading` matches to the next, up to `end`.

    Headings are counted and not read, since printed numbers slip. A group of the heading captures verse in the
    heading's line. Returns [] where the end is missing, since the last poem may have been cut then.
    """
    poems = []
    for line in lines:
        if poems and re.search(end, line):
            return poems
        if match := re.match(heading, line):
            poems.append([match.group(1)] if match.lastindex and match.group(1) else [])
        elif poems:
            poems[-1].append(line)
    return []


def clean_verse(line):
    """A line of verse without what was printed beside it: line numbers, an author's name, marks of lost text."""
    line = re.sub(r"(\s*-){2,}", "", line)  # lost text
    # A line number, or "129-18", the numbers of poem and line. From the right, since a search from the left would begin
    # anew at each digit.
    if number := re.match(r"[\d\s-]*\d[\s.]*", line[::-1]):
        line = line[: -number.end()]
    line = re.sub(r"\s\.$", "", line)  # a speck
    return re.sub(r"\s+([,;:.?!])", r"\1", line).strip()


def verse_of_page(work, path):
    """The poems on a page of Project Madurai. Raises UserError for another page."""
    again = "delete it, so that it is fetched again."
    if path.stat().st_size > MAX_PAGE:
        raise UserError(f"{path} is larger than a page of poems can be ({MAX_PAGE:,} bytes); {again}")
    try:
        lines = page_lines(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as problem:
        raise UserError(f"{path} is not UTF-8 (byte {problem.start}); {again}")
    except ValueError:
        raise UserError(f"{path} gives a character by a number that no character has; {again}")
    poems = split_poems(lines, work.heading, work.end)
    poems = [[clean_verse(re.sub(work.aside, "", line)) for line in poem] for poem in poems]
    return [[line for line in poem if re.search(LETTER, line)] for poem in poems]


def verse_of_thirukkural(work, path):
    """The couplets, two lines each. Raises UserError for a file of another shape."""
    try:
        couplets = json.loads(path.read_text(encoding="utf-8"))["kural"]
        return [[normalize(couplet[line]) for line in ("Line1", "Line2")] for couplet in couplets]
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        reason = type(problem).__name__
        raise UserError(f"{path} is no file of the Thirukkural ({reason}): delete it to have it fetched again.")


LANDSCAPE = "குறிஞ்சி|பாலை|முல்லை|மருதம்|நெய்தல்"  # a poem's landscape stands in its heading


@dataclass(frozen=True)
class Work:
    """Where a work lies, how its poems are told apart and how much of it there should be."""

    title: str
    file: str  # in data/
    poems: int
    characters: int  # about
    read: Callable = verse_of_page
    heading: str = ""
    end: str = "முற்றிற்று|முற்றும்$"  # "here it ends"
    aside: str = "$^"  # what is not verse within a poem, by default nothing


WORKS = {
    "thirukkural": Work("Thirukkural", "thirukkural.json", 1330, 83_000, verse_of_thirukkural),
    "natrinai": Work("Natrinai", "madurai/pmuni0296.html", 400, 137_000, heading=rf"\d+[\s.-]*(?:{LANDSCAPE}|மூலபாடம்)"),
    "kuruntokai": Work(
        "Kuruntokai", "madurai/pmuni0110.html", 402, 75_600, heading=r"\d+\.|கடவுள் வாழ்த்து$", aside=r"(^|\s)-\s*[^\s-].*$"
    ),
    "ainkurunuru": Work(
        "Ainkurunuru", "madurai/pmuni0028.html", 498, 65_000,
        heading=r"(?:\d+\s*\.?$|(?:181|211|361)\. *(\S.*))",  # three numbers share a line with the verse
        aside=r"^.*பத்து\.?$|^.*கிடைக்காத பாடல்$",  # the title of ten poems, and "lost poem" twice
    ),
    "akananuru": Work(
        "Akananuru", "madurai/pmuni0229.html", 401, 238_000, heading=NUMBER, aside=r"^\d\. .*$"  # a part's title
    ),
}  # fmt: skip


# ---- The whole
def fetch_work(work):
    """Returns the path of a work's file in data/, downloaded if need be."""
    if work.read is verse_of_thirukkural:
        return download(THIRUKKURAL, THIRUKKURAL_SHA256, DATA / work.file)
    return download(MADURAI + work.file.split("/")[1], None, DATA / work.file)


def read_work(work):
    """The poems of a work, as a list of texts. Raises UserError where their number or size is not the known one.

    So a page that was rearranged does not pass for poetry.
    """
    path = fetch_work(work)
    poems = ["\n".join(poem) for poem in work.read(work, path)]
    characters = sum(map(len, poems)) + len(poems)
    near = abs(characters - work.characters) < 0.05 * work.characters
    if len(poems) != work.poems or not near or not all(poems):
        raise UserError(
            f"{path} gives {len(poems)} poems with {characters:,} characters where {work.poems} with about "
            f"{work.characters:,} are known, so nothing was written; delete it to have it fetched again."
        )
    return poems


def collect(names, show=False):
    """Reads and mends the works of these names. Returns {title: [poems]}.

    Reports on standard error: a line on each work and, if `show`, on each place that was mended or is in doubt.
    """
    works = {}
    for work in (WORKS[name] for name in names):
        poems, found = zip(*map(mend_poem, read_work(work)))
        text, places, doubts = "\n\n".join(poems), sum(map(len, found)), [*map(doubtful_words, poems)]
        counts = f"{places} places mended, words in doubt: {sum(map(len, doubts))}"
        print(f"{work.title}: {len(poems):,} poems, {len(text):,} characters, {counts}", file=sys.stderr)
        for number, (mended, words) in enumerate(zip(found, doubts), 1):
            for what, line in [*mended, *(("in doubt", word) for word in words)] if show else ():
                print(f"  poem {number} in order, {what}: {line}", file=sys.stderr)
        if left := ill_formed(text):
            few = dict(left.most_common(10))
            raise UserError(f"{work.title} holds characters that are no Tamil letters: {few}; nothing was written.")
        works[work.title] = list(poems)
    return works


def print_stats(works):
    """A table of what there is."""
    print(f"{'work':12}  {'poems':>6}  {'lines':>6}  {'letters':>8}  {'characters':>10}")
    for title, poems in works.items():
        text = "\n\n".join(poems)
        lines, letters = sum(poem.count("\n") + 1 for poem in poems), len(re.findall(LETTER, text))
        print(f"{title:12}  {len(poems):6,}  {lines:6,}  {letters:8,}  {len(text):10,}")


def main():
    """The command line of tamil_dataset.py."""
    parser = Parser(__doc__)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS), help="these alone (default: all)")
    parser.add_argument("--stats", action="store_true", help="print counts and write no text")
    parser.add_argument("--mended", action="store_true", help="show each mended or doubtful place on standard error")
    args = parser.parse_args()
    works = collect(args.works, args.mended)
    if args.stats:
        return print_stats(works)
    poems = [poem for poems in works.values() for poem in poems]
    write_safely(TAMIL_TEXT, ("\n\n".join(poems) + "\n").encode())
    print(TAMIL_TEXT)


if __name__ == "__main__":
    run(main)
