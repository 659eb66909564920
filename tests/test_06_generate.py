"""Lesson 6: what a person gets who only wants text."""

import contextlib
import io
import itertools
import os
import runpy
import shutil
import sys
import threading
from importlib import import_module

import huggingface_hub
import pytest
from conftest import ROOT, Quiet, assert_refused, run_script, serving

import tools

import torch

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
SHIPPED = [ROOT / "checkpoints" / f"{name}.pt" for name in ("shakespeare", "small")]


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


@pytest.mark.parametrize(
    "length, steps, revise, passes",
    [(32, 5, 0, 5), (90, 30, 0, 30), (90, 1, 0, 5), (90, 1000, 0, 87), (90, None, 0, 87), (90, None, None, 97),
     (32, 9, 6, 9), (90, 40, 30, 40), (90, 200, 150, 200), (90, 300, None, 300), (90, 44, None, 44), (90, 1, None, 5)],
)  # fmt: skip
def test_long_texts_are_filled_window_by_window_and_share_the_steps(small_model, length, steps, revise, passes):
    model = Counting(small_model[0])
    canvas = torch.full((2, length), model.config.vocab_size)
    canvas[:, :3] = torch.tensor([1, 2, 3])
    seen, generator = [], torch.Generator().manual_seed(0)
    out = generation.generate(model, canvas, generation.Sampling(steps, revise=revise), generator, seen.append)
    assert model.passes == passes and model.longest <= 32
    assert (out[:, :3] == torch.tensor([1, 2, 3])).all() and out.max() < model.config.vocab_size
    assert torch.equal(seen[-1], out) and all(frame.shape == (2, length) for frame in seen)


def test_passes_for_all_letters_write_in_blocks_and_of_fewer_a_quarter_writes():
    complete = lambda letters, **settings: generation.Sampling(**dict(revise=None) | settings).complete(letters)  # noqa: E731
    usual = dict(temperature=0.8, top_k=None)
    assert complete(128) == dict(steps=144, order="certainty", revise=16, block=32) | usual
    assert complete(128, steps=143) == dict(steps=143, order="random", revise=108, block=None) | usual
    assert complete(128, revise=96)["steps"] == complete(128, order="margin")["steps"] == 128
    assert generation.Sampling(**complete(128)).complete(128) == complete(128)
    for steps, revise in ((512, 384), (144, 16), (128, 96), (64, 48), (32, 16), (16, 0), (4, 0), (1, 0)):
        assert complete(128, steps=steps)["revise"] == revise
    assert complete(7)["revise"] == complete(1)["revise"] == complete(0)["revise"] == 0
    assert complete(8)["steps"] == 9 and complete(0)["steps"] == 1
    assert complete(0, steps=64)["revise"] == 0  # nobody asked for passes that revise
    assert all(complete(50, **given)["block"] is None for given in (dict(revise=0), dict(order="margin")))
    assert complete(128, order="margin")["revise"] == 0 and complete(128, order="margin", revise=5)["revise"] == 5
    assert complete(50, revise=0) == dict(steps=50, order="certainty", revise=0, block=None) | usual
    assert complete(50, steps=80, revise=30)["order"] == "certainty"
    assert complete(50, steps=80, revise=31)["order"] == complete(50, steps=49, revise=0)["order"] == "random"
    assert complete(50, steps=9, order="margin")["order"] == complete(50, order="margin")["order"] == "margin"
    for letters, settings, words in (
        (50, dict(revise=50), "50 passes"), (50, dict(steps=1, revise=1), "1 passes"), (0, dict(revise=1), "no letter")
    ):  # fmt: skip
        with pytest.raises(tools.UserError, match=words):
            complete(letters, **settings)


def test_blocks_are_written_one_after_the_other_by_a_model_that_sees_two(small_model, monkeypatch):
    monkeypatch.setattr(generation, "BLOCK", 4)
    mask, seen = small_model[0].config.vocab_size, []
    canvas = torch.full((2, 24), mask)
    canvas[:, 0], canvas[:, 22:] = 1, 2  # a letter before, and two after
    inputs = []
    hook = small_model[0].register_forward_hook(lambda module, args, out: inputs.append(args[0].clone()))
    sampling = generation.Sampling(steps=26, revise=None)
    text = generation.generate(small_model[0], canvas, sampling, torch.Generator().manual_seed(0), seen.append)
    hook.remove()
    assert [tokens.shape[1] for tokens in inputs] == [8] * 21 + [24] * 5
    frames = torch.stack([seen[0], *(b for a, b in zip(seen, seen[1:]) if not torch.equal(a, b))])
    written = frames[: 21 + 1] != mask  # [22, 2, 24]
    assert (written.sum(dim=2) == 3 + torch.arange(22)[:, None]).all()  # a letter a pass
    for count, end in ((7, 8), (11, 12), (15, 16), (19, 20)):  # the first window has two blocks
        assert written[count, :, :end].all() and not written[count, :, end:22].any()
    assert all((tokens == mask).sum(dim=1).tolist() == [generation.TAKEN_BACK] * 2 for tokens in inputs[21:])
    assert (text[:, 0] == 1).all() and (text[:, 22:] == 2).all() and text.max() < mask


def test_spans_see_their_window_and_fill_nothing_else(small_model):
    model = Counting(small_model[0])
    mask = model.config.vocab_size
    canvas = torch.full((2, 40), mask)
    sampling, generator = generation.Sampling(steps=9, order="margin"), torch.Generator().manual_seed(0)
    spans, seen = [((4, 8), (0, 20)), ((30, 35), (20, 40))], []
    filled = generation.fill_spans(model, canvas, sampling, spans, generator, seen.append)
    places = torch.arange(40)
    inside = ((places >= 4) & (places < 8)) | ((places >= 30) & (places < 35))
    assert torch.equal(filled != mask, inside.expand(2, 40))
    assert model.longest == 20 and torch.equal(seen[-1], filled)
    assert (canvas == mask).all()


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


GIVEN = dict(prompt="Sh", ending="e", len=30, num=2, steps=12, temp=0.9, topk=9, order="margin", seed=3)
CHANGES = dict(prompt="Th", ending="ee", len=20, num=1, steps=20, temp=0.3, topk=2, order="confidence", seed=4)


@pytest.fixture
def written(small_model, small_checkpoint):
    """Returns write(settings) -> what 06_generate.py prints, which is what the sampler of lesson 4 gives for them."""
    model, tokenizer = small_model

    def write(settings):
        flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
        code, out, err = run_script("06_generate.py", "--checkpoint", small_checkpoint, *flags)
        assert code == 0, err
        canvas = torch.full((settings["num"], settings["len"]), tokenizer.vocab_size)  # within the context of 32
        canvas[:, : len(settings["prompt"])] = torch.tensor(tokenizer.encode(settings["prompt"]))
        canvas[:, -len(settings["ending"]) :] = torch.tensor(tokenizer.encode(settings["ending"]))
        how = dict(temperature=settings["temp"], top_k=settings["topk"], order=settings["order"])
        generator = torch.Generator().manual_seed(settings["seed"])
        tokens = diffusion.sample(model, canvas, settings["steps"], generator=generator, **how)
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
        return tools.show_text(tokenizer, canvas[0], tokenizer.vocab_size).replace(tools.HIDDEN, "_")

    assert shown(None, None, 7) == "\n\n___\n\n"
    assert shown("", "", 3) == "___"
    assert shown("Sh", None, 6) == "Sh__\n\n" and shown(None, "e", 6) == "\n\n___e"
    assert [shown(None, None, length) for length in (1, 2, 3)] == ["\n", "\n\n", "\n\n\n"]
    assert shown("Sh", None, 2) == "Sh" and shown("Sh", None, 3) == "Sh\n"
    assert shown(None, None, 3, tensors.Tokenizer(["a", "b"])) == "___"  # an alphabet without line breaks
    for given in (("Shall", "e", 5), ("", "Shall", 4)):
        with pytest.raises(tools.UserError, match=f"{len(given[0] + given[1])} letters, more than --len {given[2]}"):
            shown(*given)


# ---- Two models that write as one
@pytest.fixture
def pair():
    """Two models of random weights, over 5 letters; the amateur sees half as many."""
    torch.manual_seed(0)
    shape = dict(n_layers=1, n_heads=2, dim=16)
    expert, amateur = (transformer.Transformer(transformer.Config(5, context, **shape)) for context in (16, 8))
    for matrix in (p for model in (expert, amateur) for p in model.parameters() if p.ndim == 2):
        torch.nn.init.normal_(matrix, std=0.3)
    return generation.Contrast(expert, amateur).eval()


def test_contrast_is_the_expert_times_its_advantage_which_is_limited_where_plausible(pair):
    tokens = torch.randint(6, (3, 8), generator=torch.Generator().manual_seed(1))  # some are masks
    with torch.inference_mode():
        p = torch.softmax(pair(tokens), dim=-1)  # [B, T, V]
        expert, amateur = (torch.softmax(model(tokens), dim=-1) for model in (pair.expert, pair.amateur))
    ruled_out = limited = 0
    for b, t in itertools.product(range(3), range(8)):
        e, a = expert[b, t].tolist(), amateur[b, t].tolist()
        worth = [x * min(x / y, 3) if x >= 0.2 * max(e) else 0.0 for x, y in zip(e, a)]
        ruled_out += worth.count(0.0)
        limited += sum(w > 0 and x > 3 * y for w, x, y in zip(worth, e, a))
        torch.testing.assert_close(p[b, t], torch.tensor(worth) / sum(worth), atol=1e-5, rtol=1e-4)
    assert 0 < ruled_out < 3 * 8 * 4
    assert limited > 0


def test_two_models_do_not_talk_each_other_into_quotation_marks():
    flags = ["--prompt", "'There's a lady;' 'I' 'b", "--len", 128, "--num", 3, "--seed", 1]
    code, out, _ = run_script("06_generate.py", *flags)
    assert code == 0
    counts = [text.count("'") for text in out.split("---")]
    assert len(counts) == 3 and max(counts) < 20, counts  # without the limit 28 to 52, the expert alone 7 to 10


def test_a_canvas_too_long_for_the_amateur_gets_the_expert(pair):
    tokens = torch.full((1, 9), 5)
    with torch.inference_mode():
        assert torch.equal(pair(tokens), pair.expert(tokens))
        assert not torch.equal(pair(tokens[:, :8]), pair.expert(tokens[:, :8]))


def test_no_order_or_temperature_draws_what_is_ruled_out(pair):
    for order, temperature in itertools.product(diffusion.ORDERS, (0, 1, 10)):
        generator = torch.Generator().manual_seed(0)
        canvases = []
        tokens = diffusion.sample(
            pair, torch.full((20, 8), 5), 8, temperature, order=order, generator=generator,
            on_step=lambda canvas: canvases.append(canvas.clone()),  # noqa: B023
        )  # fmt: skip
        assert tokens.max() < 5
        for before, after in itertools.pairwise(canvases):
            new = before != after
            with torch.inference_mode():
                assert pair(before)[new].gather(1, after[new][:, None]).isfinite().all()


def test_the_shipped_model_has_the_small_one_beside_it_and_others_none(small_checkpoint, tmp_path):
    flags = ["--len", 24, "--seed", 1, "--prompt", "ROMEO:"]
    by_default = run_script("06_generate.py", *flags)
    assert by_default == run_script("06_generate.py", *flags, "--amateur", ROOT / "checkpoints" / "small.pt")
    alone = run_script("06_generate.py", *flags, "--amateur", "none")
    assert by_default[0] == alone[0] == 0 and by_default[1] != alone[1]
    assert alone == run_script("06_generate.py", *flags, "--amateur", "none", "--checkpoint", copied(tmp_path))
    assert alone == run_script("06_generate.py", *flags, "--checkpoint", copied(tmp_path))
    assert_refused(run_script("06_generate.py", "--amateur", small_checkpoint), 1, "another alphabet", "none")
    assert_refused(run_script("06_generate.py", "--amateur", tmp_path / "no.pt"), 1, "there is no file")


def copied(folder):
    return shutil.copy(ROOT / "checkpoints" / "shakespeare.pt", folder / "mine.pt")


def test_prompt_of_the_whole_length_is_given_back(small_checkpoint):
    code, out, _ = run_script("06_generate.py", "--checkpoint", small_checkpoint, "--len", 5, "--prompt", "Shall")
    assert (code, out) == (0, "Shall\n")


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
    # up, and clear: before each drawing but the first, and at the end; windows are drawn before their first pass, too;
    # passes that revise draw twice
    assert drawn.count("\x1b[") == 2 * (20 + 2 * 2 + 1)
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
    flags = ["--len", 20, "--seed", 1, "--prompt", "Sh", "--ending", "e"]
    code, out, err = run_script("06_generate.py", "--checkpoint", "hf://someone/something/models/a.pt", *flags, env=env)
    assert code == 0 and len(out) == 21, err


def test_what_the_hub_does_not_have_is_one_sentence(monkeypatch):
    def hf_hub_download(repo, file):
        raise OSError(f"404 for {repo}, {file}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    for name, words in (("hf://someone/something/b.pt", "something/b.pt"), ("hf://someone", "hf://OWNER/REPO/PATH")):
        assert_refused(run_script("06_generate.py", "--checkpoint", name), 1, words)


def test_the_longest_copy_is_found_wherever_it_stands():
    text = "Shall I compare thee to a summer's day?"
    assert tools.longest_copy(["xx compare it", "thee to a s"], text) == len("thee to a s")
    assert tools.longest_copy(["qqq"], text) == 0
    assert tools.longest_copy([text], text) == len(text)


def test_the_shipped_model_writes_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_script("06_generate.py", "--seed", 1, "--steps", 32, "--len", 128)
    assert code == 0 and 100 < len(out) <= 128 - 4 + 1 and out == out.strip("\n") + "\n", err
    common = " the and to of i you my a that in is not with thou for be he his it your me "
    assert sum(f" {word.strip('.,;:!?')} " in common for word in out.lower().split()) >= 3


@pytest.mark.parametrize("path", SHIPPED)
def test_the_shipped_file_is_small_and_holds_no_optimizer(path):
    contents = torch.load(path, weights_only=True)
    assert "optimizers" not in contents
    assert all(value.dtype == torch.bfloat16 for value in contents["model"].values())
    assert contents["heldout"] < 2


def test_a_text_longer_than_the_terminal_is_shown_where_it_grows(small_model, monkeypatch, capfd):
    model, tokenizer = small_model
    mask = model.config.vocab_size
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((11, 5)))
    view, canvas = tools.LiveView(tokenizer, mask), torch.full((1, 100), mask)
    for known, shown in ((0, range(0, 4)), (15, range(0, 4)), (75, range(4, 8)), (100, range(6, 10))):
        canvas[:, :known] = tokenizer.id_of["a"]
        view(canvas)
        lines = ["a" * max(0, min(10, known - 10 * i)) for i in shown]
        drawn = capfd.readouterr().err.split("\x1b[J")[-1]
        assert drawn == "".join(line.ljust(10, tools.HIDDEN) + "\n" for line in lines)
