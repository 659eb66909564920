"""What holds for all lessons: they run from anywhere, import in silence, and define every idea once."""

import ast
import re
import subprocess
import sys
from collections import Counter

import pytest
from conftest import ROOT, environment, run_script

SCRIPTS = sorted(p for p in ROOT.glob("*.py"))
LESSONS = [p for p in SCRIPTS if p.name[:2].isdigit()]
WALKS = [p.name for p in LESSONS if p.name < "05"]


@pytest.mark.parametrize("script", WALKS)
def test_lesson_proves_what_it_says_and_draws_a_picture(script, tmp_path, request):
    if "load_text()" in (ROOT / script).read_text(encoding="utf-8"):
        request.getfixturevalue("real_text")
    code, out, err = run_script(script, cwd=tmp_path)
    assert code == 0, err
    assert out.count("  checked: ") >= 4
    lines = out.strip().splitlines()
    picture = (ROOT / lines[-1]).resolve()
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.parent == ROOT / "figures"
    promised = re.search(r"Last line: .*`(figures/.*\.png)`", (ROOT / script).read_text(encoding="utf-8"))
    assert picture == ROOT / promised.group(1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", [p.name for p in LESSONS])
def test_help_shows_how_to_run_it(script):
    code, out, _ = run_script(script, "--help")
    assert code == 0 and f"python {script}" in out


@pytest.mark.parametrize("script", [p.stem for p in SCRIPTS])
def test_import_is_silent_and_light(script, tmp_path):
    heavy = "matplotlib pooch huggingface_hub PIL requests"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from importlib import import_module; import_module({script!r})"
    code += f"; assert not set({heavy!r}.split()) & set(sys.modules), 'heavy'"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def definitions(path):
    """The top-level classes and functions of a file."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return [node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


def test_every_idea_has_one_home():
    names = Counter(node.name for path in SCRIPTS for node in definitions(path))
    assert {name for name, count in names.items() if count > 1} <= {"main", "demo", "parse_args"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_lesson_is_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
    for node in definitions(path):
        assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.name)
def test_every_exercise_has_an_answer(path):
    text = path.read_text(encoding="utf-8")
    section = (ROOT / "docs" / "answers.md").read_text(encoding="utf-8").split(f"## {path.name}")[1].split("\n## ")[0]
    assert re.findall(r"^  (\d)\. ", text[text.index("Exercises (") :], re.M) == ["1", "2", "3"]
    assert re.findall(r"^\*\*(\d)\. ", section, re.M) == ["1", "2", "3"]


def test_later_lessons_import_earlier_ones_only():
    for path in LESSONS:
        for earlier in re.findall(r'import_module\("(\d\d)_', path.read_text(encoding="utf-8")):
            assert earlier < path.name[:2], path.name
