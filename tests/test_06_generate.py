"""Lesson 6: what a person gets who only wants text."""

import os
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from conftest import ROOT, Quiet, assert_refused, run_script, serving

generation = import_module("06_generate")
SHIPPED = ROOT / "checkpoints" / "shakespeare.pt"


@pytest.mark.parametrize("length, context", [(1, 8), (8, 8), (9, 8), (12, 8), (13, 8), (100, 8), (256, 128)])
def test_windows_cover_the_text_and_overlap_by_half(length, context):
    windows = generation.windows_to_fill(length, context)
    assert windows[0][0] == 0 and windows[-1][1] == length
    for (start, end), (next_start, next_end) in zip(windows, windows[1:]):
        assert end - start == context and next_start == start + context // 2 and next_end > end
    assert all(end - start <= context for start, end in windows)


class Counting(torch.nn.Module):
    """Counts the passes and remembers the longest input."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.passes, self.longest = model, model.config, 0, 0

    def forward(self, tokens):
        self.passes, self.longest = self.passes + 1, max(self.longest, tokens.shape[1])
        return self.model(tokens)


@pytest.mark.parametrize("length, steps, passes", [(32, 5, 5), (90, 30, 30), (90, 1, 5), (90, 1000, 90)])
def test_long_texts_are_filled_window_by_window_and_share_the_steps(small_model, length, steps, passes):
    model = Counting(small_model[0])
    canvas = torch.full((2, length), model.config.vocab_size)
    canvas[:, :3] = torch.tensor([1, 2, 3])
    passes = min(passes, length - 3)
    seen = []
    out = generation.generate(model, canvas, steps, on_step=seen.append, generator=torch.Generator().manual_seed(0))
    assert model.passes == passes and model.longest <= 32
    assert (out[:, :3] == torch.tensor([1, 2, 3])).all() and out.max() < model.config.vocab_size
    assert torch.equal(seen[-1], out) and all(frame.shape == (2, length) for frame in seen)


def test_same_seed_same_text_and_only_the_text_on_standard_output(small_checkpoint):
    flags = ["--checkpoint", small_checkpoint, "--len", 60, "--steps", 20, "--prompt", "Shall", "--num", 2]
    first, second = (run_script("06_generate.py", *flags, "--seed", 7) for _ in range(2))
    assert first[0] == 0 and first[1] == second[1] and first[2] == ""
    texts = first[1].removesuffix("\n").split("\n\n---\n\n")
    assert [len(text) for text in texts] == [60, 60] and all(text.startswith("Shall") for text in texts)
    drawn = run_script("06_generate.py", *flags)
    assert drawn[1] != first[1] and drawn[2].startswith("seed ")
    assert run_script("06_generate.py", *flags, "--seed", drawn[2].split()[1])[1] == drawn[1]


@pytest.mark.parametrize("flags", [["--temp", "0"], ["--topk", "1"], ["--order", "random"], ["--order", "certainty", "--steps", "1"]])
def test_settings_work(small_checkpoint, flags):
    code, out, err = run_script("06_generate.py", "--checkpoint", small_checkpoint, "--len", 40, "--seed", 1, *flags)
    assert code == 0 and len(out) == 41, err


def test_prompt_of_the_whole_length_is_given_back(small_checkpoint):
    code, out, _ = run_script("06_generate.py", "--checkpoint", small_checkpoint, "--len", 5, "--prompt", "Shall")
    assert (code, out) == (0, "Shall\n")


def test_animation_has_a_frame_for_every_pass(small_checkpoint, tmp_path):
    from PIL import Image

    path = tmp_path / "text.gif"
    flags = ["--checkpoint", small_checkpoint, "--len", 30, "--steps", 6, "--seed", 1, "--gif", path]
    assert run_script("06_generate.py", *flags)[0] == 0
    with Image.open(path) as gif:
        assert gif.n_frames == 7


@pytest.mark.parametrize(
    "flag, value",
    [("--len", "0"), ("--steps", "0"), ("--temp", "-1"), ("--temp", "nan"), ("--topk", "0"), ("--topk", "9999"), ("--num", "0"),
     ("--order", "alphabetical"), ("--seed", "x")],
)  # fmt: skip
def test_wrong_values_are_one_sentence(small_checkpoint, flag, value):
    assert_refused(run_script("06_generate.py", "--checkpoint", small_checkpoint, flag, value), 2, flag)


@pytest.mark.parametrize("prompt, words", [("Shall é", ["'é'", "position 7"]), ("Shall " * 50, ["longer"])])
def test_bad_prompts_are_one_sentence(small_checkpoint, prompt, words):
    assert_refused(run_script("06_generate.py", "--checkpoint", small_checkpoint, "--prompt", prompt), 1, *words)


def test_watch_without_a_terminal_and_with_several_texts(small_checkpoint):
    assert_refused(run_script("06_generate.py", "--checkpoint", small_checkpoint, "--watch"), 2, "terminal")
    assert_refused(run_script("06_generate.py", "--checkpoint", small_checkpoint, "--gif", "x.gif", "--num", 2), 2, "--num")
    assert_refused(run_script("06_generate.py", "--checkpoint", small_checkpoint, "--gif", "x.mp4"), 2, ".gif")


def test_watch_draws_masks_that_disappear(small_checkpoint):
    pty = pytest.importorskip("pty")  # not on Windows
    ours, theirs = pty.openpty()  # of no size, as some terminals are
    command = [sys.executable, ROOT / "06_generate.py", "--checkpoint", small_checkpoint, "--len", "20", "--seed", "1", "--watch"]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=theirs, timeout=100)
    os.close(theirs)
    drawn = os.read(ours, 1_000_000).decode("utf-8", errors="ignore")
    assert drawn.startswith("░" * 20)
    assert drawn.count("\x1b[") >= 20
    assert len(done.stdout.decode()) == 21


@pytest.fixture
def hub(small_checkpoint):
    """A stand-in for the Hugging Face hub on the loopback that has one file, someone/something/models/a.pt."""
    content = small_checkpoint.read_bytes()

    class Handler(Quiet):
        def do_GET(self):
            found = self.path == "/someone/something/resolve/main/models/a.pt"
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
    flags = ["--len", 20, "--seed", 1]
    code, out, err = run_script("06_generate.py", "--checkpoint", "hf://someone/something/models/a.pt", *flags, env=env)
    assert code == 0 and len(out) == 21, err
    missing = run_script("06_generate.py", "--checkpoint", "hf://someone/something/b.pt", *flags, env=env)
    assert_refused(missing, 1, "hf://someone/something/b.pt")
    assert_refused(run_script("06_generate.py", "--checkpoint", "hf://someone", *flags, env=env), 1, "hf://OWNER/REPO/PATH")


def test_the_shipped_model_writes_from_any_folder(tmp_path):
    code, out, err = run_script("06_generate.py", "--seed", 1, "--steps", 32, "--len", 128, cwd=tmp_path)
    assert code == 0 and len(out) == 129, err
    common = set("the and to of i you my a that in is not with thou for be he his it your me".split())
    assert sum(word.strip(".,;:!?'") in common for word in out.lower().split()) >= 3


def test_the_shipped_file_is_small_and_holds_no_optimizer():
    contents = torch.load(SHIPPED, weights_only=True)
    assert "optimizers" not in contents
    assert all(value.dtype == torch.bfloat16 for value in contents["model"].values())
    assert contents["heldout"] < 2
