"""Hostile and damaged checkpoints: one sentence each, nothing run, nothing changed, little memory, little time."""

import json

import hostile
import pytest
from conftest import assert_refused, run_script, start

pytest.importorskip("resource")  # not on Windows


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What tests/hostile.py prints, in half a minute: a dict for each kind of file."""
    process = start("tests/hostile.py", tmp_path_factory.mktemp("hostile"))
    printed, errors = process.communicate(timeout=280)
    assert process.returncode == 0, (process.returncode, printed[-300:], errors[-2000:])
    return [json.loads(line) for line in printed.splitlines()]


def test_there_are_many_kinds(answers):
    assert len({answer["kind"] for answer in answers}) >= 60
    assert hostile.MARKER not in {answer["kind"] for answer in answers}


def test_good_files_are_taken(answers):
    for answer in answers:
        if answer["kind"] is None or answer["group"] == "harmless":
            assert answer["code"] == 0, answer


def test_each_bad_file_is_refused_by_one_sentence_and_left_alone(answers):
    wrong = []
    for answer in answers:
        if answer["kind"] is None or answer["group"] == "harmless":
            continue
        lines = [line for line in answer["err"].strip().splitlines() if " parameters, " not in line]
        refused = answer["code"] == 1 and len(lines) == 1 and lines[0].startswith("error: ") and answer["out"] == ""
        if not refused or not answer["same"]:
            wrong.append((answer["group"], answer["kind"], answer["code"], lines[-1:], answer["same"]))
    assert wrong == []


def test_no_bad_file_takes_much_memory_or_time(answers):
    assert [(a["kind"], a["mb"]) for a in answers if a["mb"] > 1000] == []
    assert [(a["kind"], a["seconds"]) for a in answers if a["seconds"] > 60] == []  # alone, the slowest takes 2 s


OTHERS = {
    "07_train_gpt.py": ("--generate", "--len", 8, "--checkpoint"),
    "09_generate_tamil.py": ("--len", 8, "--checkpoint"),
    "11_fill_blanks.py": ("a_b", "--checkpoint"),
    "10_compare.py": ("--dllm",),
    "05_train.py": ("--evaluate",),
}
REPRESENTATIVE = (
    "cut in half",
    "an archive with code",
    "compressed",
    "a tensor of 10^9 from 4 bytes",
    "model is a list",
)


@pytest.mark.parametrize("kind", REPRESENTATIVE)
@pytest.mark.parametrize("script", OTHERS)
def test_the_other_scripts_refuse_them_too(script, kind, small_checkpoint, tmp_path, request):
    if script in ("05_train.py", "10_compare.py"):
        request.getfixturevalue("real_text")
    path = tmp_path / "evil.pt"
    hostile.DAMAGED[kind](path, small_checkpoint)
    assert_refused(run_script(script, *OTHERS[script], path), 1, "evil.pt")
    assert not (tmp_path / hostile.MARKER).exists()
