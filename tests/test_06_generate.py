"""Lesson 6: what a person gets who only wants text; what is given stays, and what is taken back."""

import contextlib
import io
import os
import runpy
import sys
import threading
from importlib import import_module
from types import SimpleNamespace

import huggingface_hub
import pytest
from conftest import ROOT, Quiet, TableModel, assert_refused, run_script, seeded, serving

from tools import pictures
from tools.checkpoints import read_checkpoint
from tools.command_line import UserError

import torch

tensors = import_module("01_tensors")
diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
settle = generation.Sampling.for_letters
SHIPPED = [ROOT / "checkpoints" / f"{name}.safetensors" for name in ("shakespeare", "small")]


# ---- The settings
def test_by_default_a_pass_for_every_two_letters_of_which_a_quarter_write():
    assert settle(252, 0.7) == generation.Sampling(126, 94, "random", 0.7, generation.ALL)
    for steps, revise in ((512, 384), (128, 96), (5, 3), (4, 3), (3, 2), (2, 1), (1, 0)):
        assert settle(128, 0.7, steps=steps).revise == revise
    assert [settle(letters, 0.7).steps for letters in (0, 1, 2, 3, 4)] == [1, 1, 1, 2, 2]
    assert settle(50, 0.7, letters_a_pass=1, revise=0).steps == 50
    assert settle(50, 0.7, top_k=3).top_k == 3
    for settings, order in (
        (dict(revise=0), "random"), (dict(revise=0, steps=50), "certainty"), (dict(revise=0, steps=49), "random"),
        (dict(steps=80, revise=30), "certainty"), (dict(steps=80, revise=31), "random"), (dict(steps=200), "certainty"),
        (dict(order="margin"), "margin"),
    ):  # fmt: skip
        assert settle(50, 0.7, **settings).order == order
    for settings, words in (dict(revise=25), "25 passes"), (dict(steps=1, revise=1), "1 passes"):
        with pytest.raises(UserError, match=words):
            settle(50, 0.7, **settings)


def test_passes_are_shared_out_by_masks():
    sampling = settle(100, 0.7, steps=40, revise=30)
    parts = generation.share_passes(sampling, [50, 0, 25, 25])
    assert [(part.steps, part.revise) for part in parts if part.steps > 1] == [(20, 15), (10, 8), (10, 8)]
    assert [part.steps for part in generation.share_passes(settle(9, 0.7, steps=1), [3, 3, 3])] == [1, 1, 1]


# ---- Writing
class Counting(torch.nn.Module):
    """Counts the passes and remembers what it was shown."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.seen = model, model.config, []

    def forward(self, tokens):
        self.seen.append(tokens)
        return self.model(tokens)


@pytest.mark.parametrize(
    "length, steps, revise, passes",
    [(32, 5, 0, 5), (90, 30, 0, 30), (90, 1, 0, 5), (90, 1000, 0, 87), (90, None, 0, 44), (90, None, None, 44),
     (32, 9, 6, 9), (90, 40, 30, 40), (90, 200, 150, 200), (90, 300, None, 300), (90, 1, None, 5)],
)  # fmt: skip
def test_long_texts_are_filled_window_by_window_and_share_the_steps(small_model, length, steps, revise, passes):
    model = Counting(small_model[0])
    canvas = torch.full((2, length), model.config.vocab_size)
    canvas[:, :3] = torch.tensor([1, 2, 3])
    seen, sampling = [], settle(length - 3, 0.7, steps=steps, revise=revise)
    out = generation.generate(model, canvas, sampling, seeded(), seen.append)
    assert len(model.seen) == passes
    assert (out[:, :3] == torch.tensor([1, 2, 3])).all() and out.max() < model.config.vocab_size
    assert torch.equal(seen[-1], out) and all(frame.shape == (2, length) for frame in seen)


@pytest.mark.parametrize(
    "length, windows",
    [(1, [(0, 1)]), (32, [(0, 32)]), (33, [(0, 32), (16, 33)]), (48, [(0, 32), (16, 48)]),
     (90, [(0, 32), (16, 48), (32, 64), (48, 80), (64, 90)])],
)  # fmt: skip
def test_windows_see_the_half_before_them_and_leave_it_as_it_is(small_model, length, windows):
    model, mask = Counting(small_model[0]), small_model[1].vocab_size
    seen, sampling = [], settle(length, 0.7, steps=40)
    out = generation.generate(model, torch.full((1, length), mask), sampling, seeded(), seen.append)
    ends = [0, *(end for _, end in windows)]
    parts = generation.share_passes(sampling, [end - done for done, end in zip(ends, ends[1:])])
    frames, shown = iter(seen), iter(model.seen)
    for (start, end), done, part in zip(windows, ends, parts):
        writing = min(part.steps - part.revise, end - done)
        for _ in range(1 + writing + 2 * part.revise):  # before, after each, two where it takes back
            frame = next(frames)[0]
            assert torch.equal(frame[:done], out[0, :done]) and (frame[end:] == mask).all()
        assert all(len(next(shown)[0]) == end - start for _ in range(writing + part.revise))
    assert next(frames, None) is next(shown, None) is None


def test_what_is_fillable_in_a_window_is_filled_and_nothing_else(small_model):
    model, mask = small_model[0], small_model[1].vocab_size
    canvas, fillable, seen = torch.full((2, 40), mask), torch.zeros(2, 40, dtype=torch.bool), []
    fillable[:, 4:8] = fillable[:, 30:] = True
    sampling = settle(4, 0.7, steps=9, revise=5)
    filled = generation.write_window(model, canvas, fillable, (0, 20), sampling, seeded(), seen.append)
    assert (filled[:, 4:8] < mask).all() and (filled != mask).sum() == 2 * 4
    assert torch.equal(seen[-1], filled) and (canvas == mask).all()


def test_same_seed_same_text_and_only_the_text_on_standard_output(small_checkpoint):
    flags = ["--checkpoint", small_checkpoint, "--len", 60, "--steps", 20, "--prompt", "Shall", "--num", 2]
    flags += ["--ending", "thee"]
    first, second = (run_script("06_generate.py", *flags, "--seed", 7) for _ in range(2))
    assert first[0] == 0 and first[1] == second[1] and first[2] == ""
    texts = first[1].removesuffix("\n").split("\n\n---\n\n")
    assert [len(text) for text in texts] == [60, 60]
    assert all(text.startswith("Shall") and text.endswith("thee") for text in texts)
    drawn = run_script("06_generate.py", *flags)
    assert drawn[1] != first[1] and drawn[2].startswith("seed ")
    assert run_script("06_generate.py", *flags, "--seed", drawn[2].split()[1])[1] == drawn[1]


GIVEN = dict(prompt="Sh", ending="e", len=30, num=2, steps=12, revise=4, temp=0.9, topk=9, order="margin", seed=3)
CHANGES = dict(
    prompt="Th", ending="ee", len=20, num=1, steps=20, revise=0, temp=0.3, topk=2, order="confidence", seed=4
)


@pytest.fixture
def written(small_model, small_checkpoint):
    """Returns write(settings) -> what 06_generate.py prints, which is what `sample` and `revise` give for them."""
    model, tokenizer = small_model

    def write(settings):
        flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
        code, out, err = run_script("06_generate.py", "--checkpoint", small_checkpoint, *flags)
        assert code == 0, err
        canvas = torch.full((settings["num"], settings["len"]), tokenizer.vocab_size)  # within the context of 32
        canvas[:, : len(settings["prompt"])] = torch.tensor(tokenizer.encode(settings["prompt"]))
        canvas[:, -len(settings["ending"]) :] = torch.tensor(tokenizer.encode(settings["ending"]))
        how = dict(temperature=settings["temp"], top_k=settings["topk"], generator=seeded(settings["seed"]))
        own, writing = canvas == tokenizer.vocab_size, settings["steps"] - settings["revise"]
        tokens = diffusion.sample(model, canvas, writing, order=settings["order"], **how)
        count = -(-own[0].sum() // writing)
        tokens = generation.revise(model, tokens, settings["revise"], count, fillable=own, **how)
        assert out == "\n\n---\n\n".join(map(tokenizer.decode, tokens)) + "\n"
        return out

    return write


@pytest.mark.parametrize("name", GIVEN)
def test_every_setting_reaches_the_sampler(written, name):
    assert written(GIVEN | {name: CHANGES[name]}) != written(GIVEN)


def test_next_to_no_temperature_is_none(written):
    assert written(GIVEN | dict(temp=1e-39)) == written(GIVEN | dict(temp=0))


def test_a_text_stands_between_blank_lines_unless_one_says_otherwise(small_model):
    tokenizer = small_model[1]

    def shown(prompt, ending, length, tokenizer=tokenizer):
        canvas = generation.make_canvas(tokenizer, prompt, ending, length, 2, "cpu")
        assert canvas.dtype == torch.long and torch.equal(canvas[0], canvas[1])
        return pictures.show_text(tokenizer, canvas[0], tokenizer.vocab_size).replace(pictures.HIDDEN, "_")

    assert shown(None, None, 7) == "\n\n___\n\n"
    assert shown("", "", 3) == "___"
    assert shown("Sh", None, 6) == "Sh__\n\n" and shown(None, "e", 6) == "\n\n___e"
    assert [shown(None, None, length) for length in (1, 3, 4, 5)] == ["_", "___", "____", "\n\n_\n\n"]  # no room
    assert [shown("Sh", None, length) for length in (2, 3, 4, 5)] == ["Sh", "Sh_", "Sh__", "Sh_\n\n"]
    assert shown(None, None, 3, tensors.Tokenizer(["a", "b"])) == "___"  # an alphabet without line breaks
    for given in (("Shall", "e", 5), ("", "Shall", 4)):
        with pytest.raises(UserError, match=f"{len(given[0] + given[1])} letters, more than --len {given[2]}"):
            shown(*given)


# ---- Taking back
class Flat:
    """A model to which all letters are equally likely everywhere. It notes how many masks it is shown."""

    def __init__(self, V):
        self.config, self.masks = SimpleNamespace(vocab_size=V), []

    def __call__(self, tokens):
        self.masks.append((tokens == self.config.vocab_size).sum(dim=1))
        return torch.zeros(*tokens.shape, self.config.vocab_size)


def test_what_may_not_be_taken_back_never_changes_and_every_pass_hides_so_many():
    generator = seeded(1)
    for _ in range(20):
        B, L, V = (int(torch.randint(2, high, (1,), generator=generator)) for high in (5, 30, 9))
        tokens = torch.randint(V, (B, L), generator=generator)
        fillable = torch.rand(B, L, generator=generator) < 0.5
        fillable[:, 0], given = True, tokens.clone()
        model, seen = Flat(V), []
        out = generation.revise(model, tokens, 7, 3, fillable=fillable, generator=generator, on_step=seen.append)
        assert torch.equal(out[~fillable], given[~fillable]) and torch.equal(tokens, given)
        assert len(model.masks) == 7 and len(seen) == 14 and torch.equal(seen[-1], out)
        assert all(torch.equal(masks, fillable.sum(dim=1).clamp(max=3)) for masks in model.masks)
        assert out.max() < V and all((canvas == V)[~fillable].sum() == 0 for canvas in seen)


def test_nothing_to_take_back_takes_no_pass():
    model, tokens = Flat(5), torch.zeros(2, 4, dtype=torch.long)
    assert torch.equal(generation.revise(model, tokens, 9, 2, fillable=torch.zeros(2, 4, dtype=torch.bool)), tokens)
    assert model.masks == []


def test_the_same_seed_the_same_letters_taken_back():
    model, tokens = TableModel(3, 5), torch.zeros(4, 5, dtype=torch.long)
    one, again, other = (generation.revise(model, tokens, 6, 2, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_doubted_letters_go_first():
    """A model that finds the letter 0 likely and all others not, wherever: the others are soon gone. The first pass of
    each call takes back any letters."""
    model = lambda tokens: torch.tensor([4.0, 0.0, 0.0]).expand(*tokens.shape, 3)  # noqa: E731
    model.config = SimpleNamespace(vocab_size=3)
    tokens = torch.randint(1, 3, (50, 20), generator=seeded(0))
    tokens[:, :10] = 0
    by_doubt, anywhere, generator = generation.revise(model, tokens, 12, 1, generator=seeded(0)), tokens, seeded(0)
    for _ in range(12):
        anywhere = generation.revise(model, anywhere, 1, 1, generator=generator)
    assert (by_doubt == 0).sum() > 1.3 * (anywhere == 0).sum() - 0.3 * 500


def test_temperature_and_top_k_reach_what_is_drawn_again():
    model, tokens = TableModel(4, 4), torch.zeros(3, 4, dtype=torch.long)
    for settings in (dict(temperature=0.0), dict(top_k=1)):
        out = generation.revise(model, tokens, 1, 4, **settings)
        assert torch.equal(out, model(torch.full((3, 4), 4)).argmax(dim=-1))


def test_a_mask_that_may_not_be_filled_stays():
    tokens = torch.tensor([[1, 2, 5, 3]])
    out = generation.revise(Flat(5), tokens, 4, 2, fillable=tokens < 5, generator=seeded(0))
    assert out[0, 2] == 5 and out[0, [0, 1, 3]].max() < 5


# ---- The command line
def test_prompt_of_the_whole_length_is_given_back(small_checkpoint):
    code, out, _ = run_script("06_generate.py", "--checkpoint", small_checkpoint, "--len", 5, "--prompt", "Shall")
    assert (code, out) == (0, "Shall\n")


def test_a_short_text_is_no_empty_line(small_checkpoint, gpt_checkpoint):
    flags = ["--len", 3, "--seed", 1, "--temp", 0]
    for script in ("06_generate.py", "15_blocks.py"):
        code, out, err = run_script(script, "--checkpoint", small_checkpoint, *flags)
        assert code == 0 and len(out) == 4, err
    code, out, err = run_script("07_train_gpt.py", "--generate", "--checkpoint", gpt_checkpoint, *flags)
    assert code == 0 and len(out) > 1, err


def test_animation_has_a_frame_for_every_pass(small_checkpoint, tmp_path):
    from PIL import Image

    path = tmp_path / "text.gif"
    flags = ["--checkpoint", small_checkpoint, "--len", 30, "--steps", 6, "--seed", 1, "--gif", path]
    for revise, frames in ((0, 7), (4, 7 + 4)):  # one more where letters are seen to be taken back
        assert run_script("06_generate.py", *flags, "--revise", revise)[0] == 0
        with Image.open(path) as gif:
            assert gif.n_frames == frames


HUGE = "1" + 30 * "0"


@pytest.mark.parametrize(
    "flag, value",
    [("--len", "0"), ("--steps", "0"), ("--temp", "-1"), ("--temp", "nan"), ("--topk", "0"), ("--topk", "9999"),
     ("--num", "0"), ("--order", "alphabetical"), ("--seed", "x"), ("--len", HUGE), ("--steps", HUGE),
     ("--temp", "1e100"), ("--topk", HUGE), ("--num", HUGE), ("--seed", HUGE)],
)  # fmt: skip
def test_wrong_values_are_one_sentence(small_checkpoint, flag, value):
    assert_refused(run_script("06_generate.py", "--checkpoint", small_checkpoint, flag, value), 2, flag)


@pytest.mark.parametrize(
    "prompt, words", [("Shall é", ["'é'", "position 7"]), ("Shall " * 50, ["300 letters", "--len 256"])]
)
def test_bad_prompts_are_one_sentence(small_checkpoint, prompt, words):
    assert_refused(run_script("06_generate.py", "--checkpoint", small_checkpoint, "--prompt", prompt), 1, *words)


def test_watch_without_a_terminal_and_with_several_texts(small_checkpoint):
    write = lambda *flags: run_script("06_generate.py", "--checkpoint", small_checkpoint, *flags)  # noqa: E731
    assert_refused(write("--watch"), 2, "terminal")
    assert_refused(write("--watch", "--quiet"), 2, "--quiet")
    assert_refused(write("--gif", "x.gif", "--num", 2), 2, "--num")
    assert_refused(write("--gif", "x.mp4"), 2, ".gif")


def test_passes_that_take_back_leave_some_to_write(small_checkpoint):
    write = lambda *flags: run_script("06_generate.py", "--checkpoint", small_checkpoint, "--seed", 1, *flags)  # noqa: E731
    assert_refused(write("--steps", 9, "--revise", 9), 2, "--revise 9", "9 passes")
    assert_refused(write("--steps", 1, "--revise", 1), 2, "--revise 1")
    assert_refused(write("--len", 9, "--revise", 9), 1, "--revise 9", "3 passes")
    assert_refused(write("--revise", -1), 2, "--revise")
    assert write("--prompt", "Shall", "--len", 5, "--steps", 9)[1] == "Shall\n"


def in_terminal(monkeypatch, *flags, out=None):
    """What 06_generate.py draws in a terminal (of no size, as some are); out: where standard output goes instead."""
    pty = pytest.importorskip("pty")  # not on Windows
    ours, theirs = pty.openpty()
    drawn = []

    def read():
        with contextlib.suppress(OSError):  # so Linux says that the other end is closed
            while piece := os.read(ours, 2**16):
                drawn.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    monkeypatch.setattr(sys, "argv", ["06_generate.py", *map(str, flags)])
    with (
        os.fdopen(theirs, "w", encoding="utf-8") as terminal,
        contextlib.redirect_stdout(out or terminal),
        contextlib.redirect_stderr(terminal),
    ):
        runpy.run_path(str(ROOT / "06_generate.py"), run_name="__main__")
    reader.join()
    os.close(ours)
    return b"".join(drawn).decode().replace("\r\n", "\n")


def test_in_a_terminal_masks_disappear_before_your_eyes_unless_it_is_quiet(small_checkpoint, monkeypatch):
    flags = ["--checkpoint", small_checkpoint, "--len", 20, "--seed", 1, "--prompt", "", "--ending", ""]
    text = run_script("06_generate.py", *flags)[1]
    drawn = in_terminal(monkeypatch, *flags)
    assert drawn.startswith("░" * 20)
    # up, and clear: before each drawing but the first, and at the end. The canvas is drawn before the first pass, and
    # passes that take back are drawn twice. 3 of 10 passes write
    assert drawn.count("\x1b[") == 2 * (3 + 2 * 7 + 1)
    assert drawn.rpartition("\x1b[J")[2] == text
    assert in_terminal(monkeypatch, *flags, "--quiet") == text
    assert "░" not in in_terminal(monkeypatch, *flags, "--num", 2)


def test_watch_leaves_standard_output_to_the_text(small_checkpoint, monkeypatch):
    flags = ["--checkpoint", small_checkpoint, "--len", 20, "--seed", 1, "--prompt", "", "--ending", ""]
    piped = io.StringIO()
    assert in_terminal(monkeypatch, *flags, out=piped) == ""
    assert in_terminal(monkeypatch, *flags, "--watch", out=piped).startswith("░" * 20)
    assert piped.getvalue() == 2 * run_script("06_generate.py", *flags)[1]


@pytest.fixture
def hub(small_checkpoint):
    """A stand-in for the Hugging Face hub on the loopback that has one file, someone/something/models/a.safetensors."""
    content = small_checkpoint.read_bytes()

    class Handler(Quiet):
        def do_GET(self):
            found = self.path == "/someone/something/resolve/main/models/a.safetensors"
            body = content if found else b""
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(body)))
            if found:
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("ETag", '"abc"')
            else:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

    with serving(Handler) as address:
        yield address


def test_checkpoint_from_the_hub(hub, tmp_path):
    env = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    flags = ["--len", 20, "--seed", 1, "--prompt", "Sh", "--ending", "e"]
    code, out, err = run_script(
        "06_generate.py", "--checkpoint", "hf://someone/something/models/a.safetensors", *flags, env=env
    )
    assert code == 0 and len(out) == 21, err


def test_what_the_hub_does_not_have_is_one_sentence(monkeypatch):
    def hf_hub_download(repo, file):
        raise OSError(f"404 for {repo}, {file}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    for name, words in (
        ("hf://someone/something/b.safetensors", "something/b.safetensors"),
        ("hf://someone", "hf://OWNER/REPO/PATH"),
    ):
        assert_refused(run_script("06_generate.py", "--checkpoint", name), 1, words)


def test_the_longest_copy_is_found_wherever_it_stands():
    text = "Shall I compare thee to a summer's day?"
    assert pictures.longest_copy(["xx compare it", "thee to a s"], text) == len("thee to a s")
    assert pictures.longest_copy(["qqq"], text) == 0
    assert pictures.longest_copy([text], text) == len(text)


def test_the_shipped_model_writes_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_script("06_generate.py", "--seed", 1, "--steps", 32, "--len", 128)
    assert code == 0 and 100 < len(out) <= 128 - 4 + 1 and out == out.strip("\n") + "\n", err
    common = " the and to of i you my a that in is not with thou for be he his it your me "
    assert sum(f" {word.strip('.,;:!?')} " in common for word in out.lower().split()) >= 3


@pytest.mark.parametrize("path", SHIPPED)
def test_the_shipped_file_is_small_and_holds_no_optimizer(path):
    contents = read_checkpoint(path)
    assert "optimizers" not in contents
    assert all(value.dtype == torch.bfloat16 for value in contents["model"].values())
    assert contents["heldout"] < 2


def test_a_text_longer_than_the_terminal_is_shown_where_it_grows(small_model, monkeypatch, capfd):
    model, tokenizer = small_model
    mask = model.config.vocab_size
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((11, 5)))
    view, canvas = pictures.LiveView(tokenizer, mask), torch.full((1, 100), mask)
    for known, shown in ((0, range(0, 4)), (15, range(0, 4)), (75, range(4, 8)), (100, range(6, 10))):
        canvas[:, :known] = tokenizer.id_of["a"]
        view(canvas)
        lines = ["a" * max(0, min(10, known - 10 * i)) for i in shown]
        drawn = capfd.readouterr().err.split("\x1b[J")[-1]
        assert drawn == "".join(line.ljust(10, pictures.HIDDEN) + "\n" for line in lines)
