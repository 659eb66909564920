"""Faults of former versions, by kind: odd letters, widths, streams that are missing, empty values, what is
printed and not so."""

import os
import subprocess
import sys
import unicodedata
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT, assert_refused, environment, run_script, save_model
from test_lessons import parser_of

from tools import command_line, pictures
from tools.checkpoints import save_checkpoint
from tools.command_line import UserError

import torch

tensors, transformer = import_module("01_tensors"), import_module("03_transformer")
CASES = ROOT / "data" / "cases"


# ---- One entrance for letters
NFD, NFC = "cafe\u0301", "caf\u00e9"


def units_of(text):
    """The alphabet of a text of which each letter with its signs is a unit of its characters."""
    return tensors.Tokenizer(sorted(set(text)))


@pytest.mark.parametrize("trained", [NFC, NFD])
@pytest.mark.parametrize("typed", [NFC, NFD, "ca\u200bf\u00e9", "ca\u00adfe\u0301", "\ufeffcaf\u00e9"])
def test_letters_are_taken_composed_decomposed_or_with_what_cannot_be_seen(trained, typed):
    tokenizer = units_of(trained)
    assert tokenizer.decode(tokenizer.encode_typed(typed)) == trained


@pytest.mark.parametrize("text", [NFC, NFD, "e\u0301\u0323", "a\u200bb", "\u05e9\u05c1\u05b8"])
def test_what_fits_as_typed_is_never_altered(text):
    tokenizer = units_of(text + unicodedata.normalize("NFC", text) + unicodedata.normalize("NFD", text))
    assert tokenizer.decode(tokenizer.encode_typed(text)) == text


def test_a_heap_of_signs_is_refused_soon():
    with pytest.raises(UserError, match="position 2"):
        units_of("abc").encode_typed("a" + "\u0301\u0316" * 80_000)  # to sort them takes a minute


def test_what_fits_in_no_form_is_refused_as_typed():
    with pytest.raises(UserError, match="'e' at position 4"):
        units_of(NFC).encode_typed("cafex")
    with pytest.raises(UserError, match="locale"):
        units_of(NFC).encode_typed("caf\udcc3")


@pytest.mark.parametrize("name", ["nfd.txt", "hindi_precomposed.txt", "hebrew.txt"])
def test_a_models_own_letters_are_accepted_everywhere(name, tmp_path):
    if not (CASES / "text" / name).exists():
        pytest.skip("the small inputs that failed are not there")
    text = (CASES / "text" / name).read_text(encoding="utf-8")
    tokenizer = units_of(text)
    config = transformer.Config(tokenizer.vocab_size, 32, n_layers=1, n_heads=2, dim=16)
    model, path = transformer.Transformer(config), tmp_path / "own.safetensors"
    save_checkpoint(dict(model=model.state_dict(), config=vars(model.config), units=tokenizer.units), path)
    word = text.split()[0][:6]
    for typed in {word, unicodedata.normalize("NFC", word), unicodedata.normalize("NFD", word)}:
        code, out, err = run_script("06_generate.py", "--checkpoint", path, "--len", 20, "--prompt", typed, "--seed", 1)
        assert code == 0 and out.startswith(word), err
        code, out, err = run_script("11_fill_blanks.py", "--checkpoint", path, typed + "_", "--seed", 1)
        assert code == 0 and out.startswith(word), err


# ---- Length is not width
@pytest.mark.parametrize(
    "text, lines",
    [("abcdef", ["abcd", "ef"]), ("ab\n\ncd", ["ab", "", "cd"]), ("\u6f22\u5b57\u6f22", ["\u6f22\u5b57", "\u6f22"]),
     ("a\tb\x0c", ["a b "]), ("e\u0301" * 5, ["e\u0301" * 4, "e\u0301"]), ("", [""])],
)  # fmt: skip
def test_lines_are_as_wide_as_the_terminal(text, lines):
    assert pictures.wrapped(text, 4) == lines


def test_a_live_view_of_wide_letters_takes_back_as_many_lines_as_it_drew(monkeypatch, capfd):
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((11, 30)))
    tokenizer = tensors.Tokenizer(["\u6f22", "\t", "\n"])
    view = pictures.LiveView(tokenizer, 3)
    view(torch.tensor([[0] * 12]))
    view.erase()
    drawn = capfd.readouterr().err
    assert drawn.count("\n") == 3 and drawn.endswith("\x1b[3A\x1b[J")  # five letters of two columns in a line of ten


def test_a_long_line_is_wrapped_in_an_animation_and_missing_letters_are_named(tmp_path, capsys):
    from PIL import Image

    tokenizer, path = tensors.Tokenizer(["a", "\u0b85"]), tmp_path / "text.gif"
    pictures.save_gif(path, [torch.zeros(1, 7000, dtype=torch.long)], tokenizer, 2)
    with Image.open(path) as gif:
        assert gif.width < 1100 and gif.height > 70 * 22
    assert "boxes" not in capsys.readouterr().err
    pictures.save_gif(path, [torch.ones(1, 5, dtype=torch.long)], tokenizer, 2)
    assert "boxes for '\u0b85'" in capsys.readouterr().err


def test_an_animation_that_a_gif_or_the_memory_cannot_hold(tmp_path, monkeypatch):
    from PIL import Image

    tokenizer, path = tensors.Tokenizer(["a", "\n"]), tmp_path / "text.gif"
    with pytest.raises(UserError, match="a GIF has 65,535: lower --len"):
        pictures.save_gif(path, [torch.ones(1, 7000, dtype=torch.long)], tokenizer, 2)
    assert not path.exists()
    monkeypatch.setattr(pictures, "GIF_PIXELS", 6 * 44 * 56)  # of each frame of three letters
    canvases = torch.full((50, 1, 3), 2)
    for step in range(50):
        canvases[step, 0, : step // 13] = 0
    pictures.save_gif(path, list(canvases), tokenizer, 2)
    with Image.open(path) as gif:
        assert gif.size == (56, 44) and 2 < gif.n_frames <= 6
        gif.seek(gif.n_frames - 1)
        assert (208, 215, 229) not in gif.convert("RGB").get_flattened_data()  # in the last one nothing is hidden


# ---- Streams may be missing, and memory may
@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell closes them")
@pytest.mark.parametrize("closed, code", [(">&-", 1), ("2>&-", 0)])
def test_a_closed_stream_is_no_traceback(closed, code):
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tools.command_line import run; run(lambda: print('x'))"
    )
    command = f'"{sys.executable}" -c "{program}" {closed}'
    done = subprocess.run(command, shell=True, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "" if code else "x\n")
    assert done.stderr == (
        "error: standard output is closed, so the result would be lost; send it to a file.\n" if code else ""
    )


STOPPED = """
import os, signal, sys
sys.path.insert(0, {root!r})
from tools.command_line import StopRequest, run
def main():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    print("stopped in order:", stop.made)
run(main)
"""


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell closes them")
def test_a_stop_request_is_heard_where_nothing_can_be_said(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(STOPPED.format(root=str(ROOT)))
    command = f'"{sys.executable}" "{script}" <&- 2>&-'
    done = subprocess.run(command, shell=True, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "stopped in order: True\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell")
def test_work_whose_reader_has_gone_does_not_say_that_all_went_well(monkeypatch):
    def fails():
        raise BrokenPipeError

    ours, theirs = os.pipe()
    with open(theirs, "w", closefd=True) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        command_line.run(fails)  # it was standard output that nobody reads
        os.close(ours)
        with pytest.raises(SystemExit) as end:
            command_line.run(fails)
        monkeypatch.undo()
    assert end.value.code == 1


def test_pictures_leave_a_notebooks_own_figures_alone():
    program = "import sys, tools.pictures as p; p.new_figure(1, 2); print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_a_sentence_has_one_line_and_upsets_no_terminal():
    def fails():
        raise UserError("the bag says \x1b[2J\nand\x9b more")

    with pytest.raises(SystemExit) as end:
        command_line.run(fails)
    assert end.value.code == "error: the bag says  [2J and  more"


def test_the_memory_sentence_names_flags_that_the_script_has(monkeypatch):
    def fails():
        raise MemoryError

    parser = command_line.Parser("")
    parser.add_argument("--num")
    with pytest.raises(SystemExit, match=r"by a smaller --num\.$"):
        command_line.run(fails)


# ---- Empty is a value
TRAIN, WRITE = "--steps 1 --preset tiny --out run.safetensors", "--checkpoint small.safetensors --seed 1"
PAIR = "--gpt gpt.safetensors"


@pytest.mark.parametrize(
    "script, flags",
    [("05_train.py", TRAIN), ("06_generate.py", f"{WRITE} --len 8"), ("07_train_gpt.py", TRAIN),
     ("07_train_gpt.py", "--generate --checkpoint gpt.safetensors --len 8"), ("08_train_tamil.py", TRAIN),
     ("09_generate_tamil.py", f"{WRITE} --kural"), ("09_generate_tamil.py", WRITE),
     ("10_compare.py", f"{PAIR} --dllm small.safetensors"), ("11_fill_blanks.py", f"{PAIR} {WRITE}"),
     ("12_revise.py", f"{WRITE} --kural"), ("13_web_page.py", "--checkpoint small.safetensors"),
     ("15_blocks.py", f"{WRITE} --len 8"), ("15_blocks.py", f"--train {TRAIN} --checkpoint small.safetensors"),
     ("tamil_wikipedia.py", ""), ("07_train_gpt.py", "--differences"),
     ("11_fill_blanks.py", "a_b --checkpoint small.safetensors --seed 1"), ("benchmarks/tune.py", "--steps 1"),
     ("benchmarks/calibrate.py", "small.safetensors"), ("benchmarks/tamil.py", WRITE),
     ("benchmarks/exact.py", f"{PAIR} --dllm small.safetensors"), ("benchmarks/paths.py", "")],
)  # fmt: skip
def test_an_empty_text_is_a_value(script, flags, small_checkpoint, gpt_checkpoint, tmp_path, monkeypatch):
    """No flag that takes a text or a file ignores an empty one. (A prompt and an ending may be empty.)"""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    actions = [each for each in parser_of(script)._actions if each.nargs != 0 and each.choices is None]
    named = [each for each in actions if each.option_strings and each.type in (None, command_line.given_path)]
    for name in [each.option_strings[-1] for each in named]:
        code, out, err = run_script(script, *flags.split(), name, "")
        if code or name not in ("--prompt", "--ending"):
            assert_refused((code, out, err), 2 if code == 2 else 1)
        assert sorted(tmp_path.iterdir()) == before


def test_another_value_than_those_that_there_are_is_refused():
    assert_refused(run_script("benchmarks/tune.py", "--steps", 1, "positions="), 2, "choose rope or learned")


def test_an_empty_text_has_no_blank(small_checkpoint):
    assert_refused(run_script("11_fill_blanks.py", "", "--checkpoint", small_checkpoint), 1, "no blank")


# ---- What is printed is true, and what the README promises
@pytest.fixture
def own_run(tmp_path, monkeypatch):
    """(the folder in which a run of one step was begun, what it printed)"""
    here = tmp_path / "some folder"
    here.mkdir()
    monkeypatch.chdir(here)
    text = "The quick brown fox jumps over the lazy dog.\n\u0b85\u0bb1\u0bae\u0bcd \u6f22\u5b57\t\U0001f600\n"
    Path("notes.csv").write_text(text * 40, encoding="utf-8")  # any text, by any name
    flags = ["--data", "notes.csv", "--preset", "tiny", "--batch", 2, "--dtype", "float32", "--device", "cpu"]
    assert_refused(run_script("05_train.py", *flags, "--out", "notes.safetensors"), 1, "notes.csv", "another --out")
    code, out, err = run_script("05_train.py", *flags, "--steps", 1, "--out", "my run.safetensors")
    assert code == 0, err
    return here, out


def test_any_text_in_any_folder_and_the_printed_command_works_there(own_run):
    here, out = own_run
    python, command = out.splitlines()[-1].split(" ", 1)
    typed = f'"{sys.executable}" {command} --len 20'
    done = subprocess.run(typed, shell=True, env=environment(), cwd=here, capture_output=True)
    assert python == "python" and done.returncode == 0 and done.stdout, done.stderr
    assert sorted(path.suffix for path in here.iterdir()) == sorted([".csv"] * 2 + [".safetensors"] * 2 + [".png"])


# ---- Claims about shipped models
def test_a_claim_that_a_users_own_model_misses_is_printed_and_stops_nothing(capsys):
    command_line.check("it writes well", False, shipped=False)
    assert capsys.readouterr().out == "  not so for this model: it writes well\n"
    with pytest.raises(AssertionError):
        command_line.check("it writes well", False)


def test_a_weak_model_of_ones_own_walks_through_lesson_15_and_becomes_a_page(small_checkpoint, tmp_path, real_text):
    units = sorted(set(real_text))
    config = transformer.Config(len(units), 32, n_layers=1, n_heads=2, dim=16)
    model = transformer.Transformer(config)  # untrained, it finds all letters as likely
    path = save_model(tmp_path / "weak.safetensors", model, units)
    code, out, err = run_script("15_blocks.py", "--walk", "--checkpoint", path)
    assert code == 0 and "not so for this model: another letter in the block before is noticed" in out, err
    code, out, err = run_script("13_web_page.py", "--checkpoint", path, "--out", tmp_path / "page.html")
    assert code == 0 and (tmp_path / "page.html").exists(), err


def test_lesson_11_walks_through_with_a_weak_model_of_ones_own(tmp_path, real_text):
    units = sorted(set(real_text))
    config = transformer.Config(len(units), 64, n_layers=1, n_heads=2, dim=16)
    gpt, dllm = tmp_path / "gpt.safetensors", tmp_path / "dllm.safetensors"
    for path, causal in ((gpt, True), (dllm, False)):
        model = transformer.Transformer(transformer.Config(**vars(config) | dict(causal=causal)))
        save_checkpoint(dict(model=model.state_dict(), config=vars(model.config), units=units), path)
    code, out, err = run_script("11_fill_blanks.py", "--checkpoint", dllm, "--gpt", gpt, "--seed", 1)
    assert code == 0 and "not so for this model" in out, err


def test_a_dumb_terminal_is_not_drawn_in(monkeypatch):
    class Screen:
        isatty = staticmethod(lambda: True)

    args = type("Args", (), dict(watch=False, quiet=False, num=1))
    monkeypatch.setattr(sys, "stdout", Screen)
    monkeypatch.setattr(sys, "stderr", Screen)
    generation = import_module("06_generate")
    blanks, tokens, answers = import_module("11_fill_blanks"), torch.zeros(1, dtype=torch.long), []
    monkeypatch.delenv("NO_COLOR", raising=False)
    for term in ("xterm", "dumb"):
        monkeypatch.setenv("TERM", term)
        marked = blanks.with_marks(tensors.Tokenizer(["a"]), tokens, tokens == 0)
        answers.append((generation.is_live(None, args), marked))
    monkeypatch.undo()
    assert answers == [(True, "\x1b[1;32ma\x1b[0m"), (False, "a")]
