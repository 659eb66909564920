"""Lesson 15: who sees whom, exact figures by enumeration, the cache, training, and the writer."""

import itertools
import signal
from importlib import import_module

import pytest
from conftest import ROOT, VERSE, assert_refused, random_dllm, random_model, run_script, save_model, seeded
from test_05_train import assert_same_runs, at_call

from tools.checkpoints import read_checkpoint, save_checkpoint

import torch

diffusion, training = import_module("04_diffusion"), import_module("05_train")
transformer, gpt, blocks = import_module("03_transformer"), import_module("07_train_gpt"), import_module("15_blocks")

UNITS = sorted(set(VERSE))


@pytest.fixture
def model():
    return random_dllm("abcde", context=16)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """The path of a small dLLM with the alphabet of VERSE, of the shape of a preset."""
    monkeypatch.setitem(transformer.PRESETS, "tiny", dict(context=32, n_layers=2, n_heads=2, dim=16))
    torch.manual_seed(0)
    model = transformer.Transformer(transformer.Config(len(UNITS), **transformer.PRESETS["tiny"]))
    for matrix in (p for p in model.parameters() if p.ndim == 2):
        torch.nn.init.normal_(matrix, std=0.3)
    path = tmp_path / "start.safetensors"
    save_checkpoint(dict(model=model.state_dict(), config=vars(model.config), units=UNITS), path)
    return path


# ---- Who sees whom
def moved(function, tokens, place):
    """[L] True where function(tokens) [1, L, V] depends on the token at a place."""
    other = tokens.clone()
    other[0, place] = (other[0, place] + 1) % 5
    return ((function(tokens) - function(other)).abs() > 1e-13).any(dim=2)[0]


@pytest.mark.parametrize("block", [1, 3, 4, 16])
def test_a_place_sees_its_own_block_in_noisy_and_earlier_ones_in_clean(model, block):
    model, tokens = model.double(), torch.randint(5, (1, 16), generator=seeded())
    number = torch.arange(16) // block
    with torch.inference_mode():
        for place in range(16):
            by_noisy = moved(lambda noisy: blocks.block_logits(model, noisy, tokens, block), tokens, place)
            by_clean = moved(lambda clean: blocks.block_logits(model, tokens, clean, block), tokens, place)
            assert torch.equal(by_noisy, number == number[place])
            assert torch.equal(by_clean, number > number[place])


def test_one_block_is_the_dllm(model):
    tokens = torch.randint(6, (2, 16), generator=seeded())
    clean = torch.zeros_like(tokens)
    assert torch.equal(blocks.block_logits(model, tokens, clean, 16), model(tokens))
    assert torch.equal(blocks.block_logits(model, tokens, clean, 99), model(tokens))


# ---- Likelihoods
@pytest.mark.parametrize("block", [1, 2, 3, 4])
def test_exact_likelihoods_sum_to_1_over_all_texts(block):
    model = random_dllm("abc", context=4)
    texts = torch.tensor(list(itertools.product(range(3), repeat=4)))
    p = torch.exp(-4 * blocks.block_nats(model, texts, block))
    assert p.sum().item() == pytest.approx(1, abs=1e-5)


def test_exact_likelihood_is_the_product_along_the_way(model):
    """By hand, letter by letter: each is asked with what it may see, and no second copy."""
    text, block = torch.randint(5, (12,), generator=seeded()), 4
    nats = 0.0
    for i in range(12):
        start = i // block * block
        canvas = torch.cat([text[:i], torch.full((start + block - i,), 5)])  # its block's rest is masked
        numbers = torch.arange(len(canvas)) // block
        reader, reading = gpt.with_cache(model)
        reading.positions, reading.allowed = torch.arange(len(canvas)), blocks.sees(numbers, numbers)
        nats -= torch.log_softmax(reader(canvas[None])[0, i], dim=-1)[text[i]].item()
    assert blocks.block_nats(model, text[None], block).item() == pytest.approx(nats / 12, abs=1e-5)
    whole = diffusion.exact_nats(model, text[None], "left to right", 12)
    assert torch.allclose(blocks.block_nats(model, text[None], 12), whole, atol=1e-5)


# ---- The cache
@pytest.mark.parametrize("block", [1, 4, 5, 16])
def test_with_the_cache_logits_are_those_of_both_copies(model, block):
    tokens, writer = torch.randint(5, (2, 16), generator=seeded()), blocks.BlockWriter(model, block)
    with torch.inference_mode():
        for start in range(0, 16, block):
            noisy = tokens.masked_fill(torch.arange(16) >= start + 1, 5)
            expected = blocks.block_logits(model, noisy, tokens, block)[:, start : start + block]
            writer.see(tokens[:, :start], expected.shape[1])
            for _ in range(2):  # the pass that reads the block before, and one that does not
                got = writer(noisy[:, start : start + block])
                torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_long_prompt_is_read_at_once_as_if_block_by_block(model):
    tokens, writer = torch.randint(5, (1, 16), generator=seeded()), blocks.BlockWriter(model, 4)
    noisy = tokens.masked_fill(torch.arange(16) >= 12, 5)
    with torch.inference_mode():
        writer.see(tokens[:, :12], 4)
        torch.testing.assert_close(writer(noisy[:, 12:]), blocks.block_logits(model, noisy, tokens, 4)[:, 12:])


def test_beyond_the_context_the_older_half_is_forgotten(model):
    text, writer = torch.randint(5, (1, 24), generator=seeded()), blocks.BlockWriter(model, 4)
    present = torch.full((1, 4), 5)
    with torch.inference_mode():
        writer.see(text[:, :12], 4)
        writer(present)
        writer.see(text[:, :16], 4)  # with the block 20 letters, where 16 fit: the last 8 are seen
        fresh = blocks.BlockWriter(model, 4)
        fresh.see(text[:, 8:16], 4)
        torch.testing.assert_close(writer(present), fresh(present))


@pytest.mark.parametrize("block", [1, 4, 7, 16])
def test_writing_fills_block_after_block_a_letter_a_pass_and_keeps_what_is_given(model, block):
    canvas = torch.full((2, 30), 5)
    canvas[:, 0], canvas[:, 20], seen = 1, 2, []
    draw = dict(temperature=1.0, generator=seeded(), on_step=seen.append)
    out = blocks.write_blocks(blocks.BlockWriter(model, block), canvas, block, draw)
    assert out.max() < 5 and (out[:, 0] == 1).all() and (out[:, 20] == 2).all() and torch.equal(seen[-1], out)
    for frame in seen:
        first = (frame[0] == 5).nonzero()[:1].flatten()  # the first mask: all blocks after its own are untouched
        if len(first):
            untouched = (frame[0] == canvas[0])[(first.item() // block + 1) * block :]
            assert untouched.all()


def test_it_stops_where_it_is_told(model):
    draw = dict(temperature=1.0, generator=seeded())
    canvas, writer = torch.full((1, 30), 5), blocks.BlockWriter(model, 4)
    assert blocks.write_blocks(writer, canvas, 4, draw, lambda written: written.shape[1] >= 11).shape == (1, 12)
    assert blocks.cut("\n\nab\n\ncd", "\n\n", 0) == "\n\nab"
    assert blocks.cut("XY: ab\n\ncd", "\n\n", 2) == "XY: ab" and blocks.cut("abc", "\n\n", 0) == "abc"
    assert blocks.cut("a\n\nb", None, 0) == "a\n\nb"


def test_where_to_stop_is_typed_like_any_letters(tmp_path):
    path = save_model(tmp_path / "model.safetensors", random_model(1, 32), "\u00e9")
    flags = ["--checkpoint", path, "--prompt", "e\u0301", "--len", 8, "--block", 2, "--seed", 1]
    assert run_script("15_blocks.py", *flags, "--stop", "e\u0301")[1] == "\u00e9\n"
    assert_refused(run_script("15_blocks.py", *flags, "--stop", "x"), 1, "'x' at position 1")
    assert_refused(run_script("15_blocks.py", *flags, "--stop", "\u200b"), 2, "not empty")


def test_contrast_is_the_expert_times_its_advantage(model):
    amateur = random_dllm("abcde", context=16).double().float()
    torch.nn.init.normal_(amateur.head.weight, std=0.3)
    pair = blocks.Contrast(blocks.BlockWriter(model, 4), blocks.BlockWriter(amateur, 4))
    before, tokens = torch.randint(5, (1, 8), generator=seeded()), torch.full((1, 4), 5)
    with torch.inference_mode():
        pair.see(before, 4)
        p = torch.softmax(pair(tokens), dim=-1)[0]
        e, a = (torch.softmax(each(tokens), dim=-1)[0] for each in (pair.expert, pair.amateur))
    for place in range(4):
        worth = [x * min(x / y, 3) if x >= 0.2 * max(e[place]) else 0.0 for x, y in zip(e[place], a[place])]
        torch.testing.assert_close(p[place], torch.tensor(worth) / sum(worth), atol=1e-5, rtol=1e-4)


# ---- Training
@pytest.mark.parametrize("block", [1, 2, 8])
def test_every_block_has_1_to_all_of_its_letters_hidden(block):
    tokens = torch.randint(5, (50, 16), generator=seeded())
    noisy, mask = blocks.hide_in_blocks(tokens, block, 5, seeded(1))
    counts = mask.view(-1, block).sum(dim=1)
    assert torch.equal(noisy, tokens.masked_fill(mask, 5))
    assert counts.bincount(minlength=block + 1)[0] == 0
    assert counts.float().mean().item() == pytest.approx((1 + block) / 2, rel=0.1)


def train(checkpoint, text_file, out, *flags):
    shape = ["--preset", "tiny", "--batch", 2, "--data", text_file, "--checkpoint", checkpoint]
    return run_script("15_blocks.py", "--train", *shape, "--dtype", "float32", "--out", out, *flags)


def test_stopped_and_resumed_equals_uninterrupted(tmp_path, checkpoint, text_file):
    flags = "--steps", 8, "--dropout", 0.2
    code, out, err = train(checkpoint, text_file, tmp_path / "whole.safetensors", *flags)
    assert code == 0 and out == f"python 15_blocks.py --checkpoint {tmp_path / 'whole_best.safetensors'}\n", err
    with at_call(diffusion, "mask_exactly", 5, lambda: signal.raise_signal(signal.SIGTERM)):
        assert train(checkpoint, text_file, tmp_path / "run.safetensors", *flags)[0] == 0
    assert read_checkpoint(tmp_path / "run.safetensors")["step"] == 5
    code, _, err = train(checkpoint, text_file, tmp_path / "run.safetensors", *flags, "--resume")
    assert code == 0, err
    assert_same_runs(tmp_path, "whole", "run")
    flags = ["--out", tmp_path / "run.safetensors", "--resume", "--steps", 9]
    assert run_script("15_blocks.py", "--train", *flags)[0] == 0  # the shape is the run's own


def test_a_run_begins_with_the_dllm_and_refuses_another_shape(tmp_path, checkpoint, text_file):
    assert train(checkpoint, text_file, tmp_path / "a.safetensors", "--steps", 1, "--lr", 0)[0] == 0
    weights, began = (read_checkpoint(path)["model"] for path in (tmp_path / "a.safetensors", checkpoint))
    assert all(torch.equal(weights[name], began[name]) for name in began)
    refused = train(checkpoint, text_file, tmp_path / "b.safetensors", "--steps", 1, "--preset", "small")
    assert_refused(refused, 1, "--preset small")


def test_what_does_not_go_together_is_one_sentence(checkpoint, gpt_checkpoint, tmp_path):
    write = lambda *flags: run_script("15_blocks.py", "--checkpoint", checkpoint, "--seed", 1, *flags)  # noqa: E731
    assert_refused(write("--block", 33), 2, "--block", "32")
    assert_refused(write("--block", 0), 2, "--block")
    assert_refused(write("--stop", ""), 2, "--stop")
    assert_refused(write("--stop", "--ending", "x"), 2, "--ending")
    assert_refused(write("--revise", 3, "--len", 40), 2, "--revise", "32")
    assert_refused(write("--steps", 3), 2, "--steps goes with --train")
    assert_refused(write("--amateur", gpt_checkpoint), 1, "is a GPT")
    assert_refused(run_script("15_blocks.py", "--checkpoint", gpt_checkpoint), 1, "is a GPT")
    assert_refused(run_script("15_blocks.py", "--train", "--len", 3), 2, "--len does not go with --train")


def test_the_same_seed_the_same_text(checkpoint):
    flags = ["--checkpoint", checkpoint, "--len", 50, "--block", 8, "--prompt", "Shall"]
    one, two = (run_script("15_blocks.py", *flags, "--seed", 7) for _ in range(2))
    assert one[0] == 0 and one == two and one[1].startswith("Shall") and len(one[1]) <= 51
    assert run_script("15_blocks.py", *flags, "--seed", 8)[1] != one[1]
    assert run_script("15_blocks.py", *flags, "--seed", 7, "--block", 4)[1] != one[1]
    pair = run_script("15_blocks.py", *flags, "--seed", 7, "--amateur", checkpoint)
    assert pair[0] == 0 and pair[1] != ""


def test_the_walk_proves_and_draws(checkpoint, real_text, tmp_path):
    path = ROOT / "checkpoints" / "small.safetensors"
    code, out, err = run_script("15_blocks.py", "--walk", "--checkpoint", path)
    assert code == 0 and out.count("  checked: ") == 4, err
    assert out.strip().endswith("15_masks.png")
