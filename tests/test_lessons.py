"""What holds for all files: lessons run from anywhere, import in silence, and define every idea once; what one file
takes from another is there; and what README and docs point to, files and commands, is there, too."""

import argparse
import ast
import re
import runpy
import subprocess
import sys
import unicodedata
from collections import Counter
from importlib import import_module
from types import ModuleType
from unittest import mock

import pytest
from conftest import ROOT, environment, run_script

SCRIPTS = sorted(path for folder in (".", "tools", "robots") for path in (ROOT / folder).glob("*.py"))
BENCHMARKS = sorted(path for path in ROOT.glob("benchmarks/*.py") if path.stem != "__init__")
ROS = sorted([*ROOT.glob("ros2/*.py"), *ROOT.glob("ros2/[!.]*/*.py")])  # its module server needs ROS, to be imported
TESTS = sorted(ROOT.glob("tests/*.py"))
LESSONS = [path for path in SCRIPTS if path.name[:2].isdigit()]
WALKS = [path.name for path in LESSONS if path.name < "05"]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]


def names(paths):
    """Files, named for the tests' report by where they are."""
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.relative_to(ROOT).as_posix())


def read(path):
    return path.read_text(encoding="utf-8")


def module_name(path):
    """The name by which a file is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


OURS = {module_name(path) for path in SCRIPTS + BENCHMARKS} | {"benchmarks"}


def imported_name(call):
    """The module's name in `import_module("NAME")`, or None for any other expression."""
    called = isinstance(call, ast.Call) and ast.unparse(call.func).endswith("import_module")
    return call.args[0].value if called and isinstance(call.args[0], ast.Constant) else None


# ---- Running and importing
@pytest.mark.parametrize("script", WALKS)
def test_lesson_proves_what_it_says_and_draws_a_picture(script, tmp_path, monkeypatch, request):
    if "load_text()" in read(ROOT / script):
        request.getfixturevalue("real_text")
    monkeypatch.chdir(tmp_path)
    code, out, err = run_script(script)
    assert code == 0, err
    assert out.count("  checked: ") >= 4
    lines = out.strip().splitlines()
    picture = (ROOT / lines[-1]).resolve()
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.parent == ROOT / "figures"
    promised = re.search(r"Last line: .*`(figures/.*\.png)`", read(ROOT / script))
    assert picture == ROOT / promised.group(1)
    assert list(tmp_path.iterdir()) == []


@names(LESSONS)
def test_help_shows_how_to_run_it(path):
    code, out, _ = run_script(path.name, "--help")
    assert code == 0 and f"python {path.name}" in out


IMPORTER = """
import os, sys, torch
from importlib import import_module
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
for name in sys.argv[2:]:
    import_module(name)
    new = {module.partition(".")[0] for module in set(sys.modules) - before}
    foreign = new - set(sys.stdlib_module_names) - set(sys.argv[2:]) - {"tqdm"}  # tools and robots are among these
    assert not foreign and "torch._dynamo" not in sys.modules, (name, foreign)
assert os.listdir() == []
"""


def test_import_is_silent_and_light(tmp_path):
    """Beyond torch's own, nothing is imported but what comes with Python, and tqdm."""
    command = [sys.executable, "-c", IMPORTER, str(ROOT), *map(module_name, SCRIPTS)]
    done = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---- What imports what
def imports(path):
    """The modules of this project that a file imports, wherever it does; by their names, which nothing computes."""
    found = set()
    for node in ast.walk(ast.parse(read(path))):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert not re.search(r"__import__|run_path|run_module|spec_from|load_module", called), called
            found |= {imported_name(node)} if called.endswith("import_module") else set()
    assert None not in found
    return found & OURS


def test_nothing_imports_what_comes_later():
    """Neither itself nor by what it imports: a lesson another one with its number or a larger one; tools a lesson or
    robots; robots a lesson, save for its training, which builds on lesson 14."""
    needed = {module_name(path): imports(path) for path in SCRIPTS}
    for _ in needed:  # long enough for any chain
        needed = {name: found.union(*(needed[each] for each in found)) for name, found in needed.items()}
    for name, found in needed.items():
        limit = name[:2] if name[:2].isdigit() else "15" if name == "robots.training" else "00"
        assert {each for each in found if each[:2].isdigit() and each[:2] >= limit} == set(), name
        assert not name.startswith("tools") or all(each.startswith("tools") for each in found), name


def test_writing_loads_the_first_lessons_and_tools_alone(tmp_path):
    """Each once: what runs as a script is not imported as a module, too."""
    program = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
sys.argv = [{str(ROOT / "06_generate.py")!r}, "--len", "8", "--seed", "1"]
runpy.run_path(sys.argv[0], run_name="__main__")
print(*sys.modules, sep="\\n")
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = OURS & set(done.stdout.splitlines())
    assert {name for name in loaded if not name.startswith("tools")} == {path.stem for path in LESSONS[:5]}


# ---- How the files are written
def definitions(path):
    """The top-level classes and functions of a file."""
    return [node for node in ast.parse(read(path)).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


def test_every_idea_has_one_home():
    homes = Counter(node.name for path in SCRIPTS + BENCHMARKS + ROS for node in definitions(path))
    assert {name for name, count in homes.items() if count > 1} <= {"main", "demo"}


def columns(line):
    """How wide a line is: a sign that joins a Tamil letter takes no column of its own."""
    return sum(unicodedata.category(character)[0] != "M" for character in line)


@names(SCRIPTS + BENCHMARKS + ROS)
def test_lines_and_functions_are_short_and_explained(path):
    assert [line for line in read(path).splitlines() if columns(line) > 120] == []
    for node in ast.walk(ast.parse(read(path))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 60, node.name
    for node in definitions(path):
        assert ast.get_docstring(node), node.name


def test_a_lesson_is_read_in_one_sitting():
    assert {path.name: lines for path in LESSONS if (lines := len(read(path).splitlines())) > 350} == {}


def test_lesson_1_begins_with_its_subject():
    lines = read(LESSONS[0]).splitlines()
    [place] = [number for number, line in enumerate(lines, 1) if re.match("# (---- )?Text, and tokens", line)]
    assert place <= 40


@names([*(path for path in SCRIPTS if path.parent.name != "tools"), *BENCHMARKS, ROOT / "tests" / "conftest.py"])
def test_tools_comes_before_torch(path):
    """It says how torch's threads wait. (What imports a lesson or conftest.py has it from there, in the same order.)"""
    imported = []
    for node in ast.parse(read(path)).body:
        if isinstance(node, ast.ImportFrom):
            imported.append(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            imported += [each.name for each in node.names]
    assert "torch" not in imported or "tools" in imported[: imported.index("torch")]


@names(LESSONS)
def test_every_exercise_has_an_answer(path):
    text = read(path)
    section = read(ROOT / "docs" / "answers.md").split(f"## {path.name}")[1].split("\n## ")[0]
    assert re.findall(r"^  (\d)\. ", text[text.index("Exercises (") :], re.M) == ["1", "2", "3"]
    assert re.findall(r"^\*\*(\d)\. ", section, re.M) == ["1", "2", "3"]


# ---- What one file takes from another
def aliases(tree):
    """[(alias, module name)] for modules of this project, in whatever way the file imports them."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(each.asname or each.name, each.name) for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(each.asname or each.name, f"{node.module}.{each.name}") for each in node.names]
        elif isinstance(node, ast.Assign):
            [target], value = node.targets[:1], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = zip(target.elts, value.elts)
            found += [(name.id, imported_name(call)) for name, call in pairs if isinstance(name, ast.Name)]
    return [(alias, name) for alias, name in found if name in OURS]


def resolve(node, known):
    """The module that an expression like `training` or `training.diffusion` names, else None; and a complaint for
    every attribute of a module on the way that is not there."""
    if isinstance(node, ast.Name):
        return known.get(node.id), []
    if not isinstance(node, ast.Attribute):
        return None, []
    module, complaints = resolve(node.value, known)
    if module is None:
        return None, complaints
    if not hasattr(module, node.attr):
        return None, [*complaints, f"line {node.lineno}: {ast.unparse(node)}"]
    value = getattr(module, node.attr)
    return (value if isinstance(value, ModuleType) and value.__name__ in OURS else None), complaints


@names(SCRIPTS + BENCHMARKS + ROS + TESTS)
def test_what_is_taken_from_another_file_is_there(path):
    tree = ast.parse(read(path))
    known = {alias: import_module(name) for alias, name in aliases(tree)}
    missing = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            missing += resolve(node, known)[1]
            name = imported_name(node.value)  # import_module("NAME").attribute
            if name in OURS and not hasattr(import_module(name), node.attr):
                missing.append(f"line {node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.ImportFrom) and node.module in OURS:
            module, names = import_module(node.module), {each.name for each in node.names}
            names -= {name for name in names if f"{node.module}.{name}" in OURS}
            missing += [f"{node.module} has no {name}" for name in names if not hasattr(module, name)]
    assert missing == []


def test_each_module_has_one_alias():
    used = {}
    for path in SCRIPTS + BENCHMARKS + ROS + TESTS:
        for alias, name in aliases(ast.parse(read(path))):
            used.setdefault(name, {}).setdefault(alias, set()).add(path.name)
    assert {name: found for name, found in used.items() if len(found) > 1} == {}


# ---- What README and docs point to
class Found(Exception):
    """Carries the parser of a script out of it."""


def parser_of(script):
    """The argparse parser of a script, its path given from the root, with its flags."""

    def caught(parser, *_):
        raise Found(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", caught), pytest.raises(Found) as found:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return found.value.args[0]


COMMAND = re.compile(
    r"(?:python|torchrun [^`\n]*?) +(-m (?:benchmarks|robots)\.\w+|[\w/]+\.py)\b((?:\\\n|[^`\n|;&#<>)])*)"
)


def faults_of_commands(text):
    """What is wrong with the commands that a text quotes: `python XX.py --flag`, `python -m PACKAGE.NAME --flag`."""
    faults, parsers = [], {}
    for script, rest in COMMAND.findall(text):
        path = script.removeprefix("-m ").replace(".", "/") + ".py" if script.startswith("-m ") else script
        if not (ROOT / path).is_file():
            faults.append(f"there is no {path}")
            continue
        parsers[path] = parsers.get(path) or parser_of(path)
        flags = re.findall(r"(?<![\w-])--[a-z][\w-]*", re.sub(r'"[^"]*"', "", rest))
        faults += [f"{path} has no {flag}" for flag in flags if flag not in parsers[path]._option_string_actions]
    return faults


def test_faulty_commands_are_found():
    text = """`python 05_train.py --nope 3` and `python 06_generate.py --prompt "a --b" --temp 1`, python 99_x.py
        torchrun --nproc_per_node=2 05_train.py --stops
        python -m benchmarks.none | python 04_diffusion.py | --other"""
    faults = ["05_train.py has no --nope", "there is no 99_x.py", "05_train.py has no --stops"]
    assert faults_of_commands(text) == [*faults, "there is no benchmarks/none.py"]


@names(PAGES + SCRIPTS + BENCHMARKS)
def test_quoted_commands_are_understood(path):
    text = read(path)
    assert faults_of_commands(text if path.suffix == ".md" else ast.get_docstring(ast.parse(text)) or "") == []


def anchors(path):
    """The names by which GitHub lets a link point to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", read(path), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@names([*PAGES, ROOT / "checkpoints" / "README.md"])
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", read(path))
    for link in (a or b for a, b in links if not re.match(r"\w+:", a or b)):
        file, _, anchor = link.partition("#")
        page = path.parent / file if file else path
        assert page.exists() and (not anchor or anchor in anchors(page)), link


# ---- The command line
@names([path for path in SCRIPTS + BENCHMARKS if "run(main)" in read(path) and "parse_args" in read(path)])
def test_every_number_has_an_upper_limit(path):
    for action in parser_of(path.relative_to(ROOT))._actions:
        if action.type is not None and "path" not in repr(action.type).lower():
            for value in ("1" + 30 * "0", "1e100"):
                with pytest.raises(argparse.ArgumentTypeError, match="is not allowed; give a .*from .* to "):
                    action.type(value)
