"""Lesson 13: the page computes what PyTorch computes. What a person sees of it is in test_13_browser.py."""

import json
import re
import shutil
import subprocess
from importlib import import_module

import pytest
from conftest import ROOT, VERSE, assert_refused, in_bfloat16, random_dllm, random_gpt, run_script, seeded

import torch

tensors = import_module("01_tensors")
diffusion = import_module("04_diffusion")
training, generation = import_module("05_train"), import_module("06_generate")
gpt = import_module("07_train_gpt")
web_page = import_module("13_web_page")

UNITS = sorted(set(VERSE))[1:]  # 23 of them, which is no multiple of 8
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node")


@pytest.fixture
def page(tmp_path):
    """(path of a page with a small dLLM and a small GPT, the dLLM, the GPT)."""
    models = dict(dllm=in_bfloat16(random_dllm(UNITS)), gpt=in_bfloat16(random_gpt(len(UNITS), 32)))
    path = tmp_path / "page.html"
    path.write_text(web_page.build_page(models, UNITS, "x.safetensors"), encoding="utf-8")
    return path, *models.values()


def farthest(logits, model, tokens):
    with torch.inference_mode():
        return (torch.tensor(logits) - model(torch.tensor([tokens]))[0]).abs().max().item()


@needs_node
def test_random_numbers_are_pytorchs(page):
    [*drawn] = web_page.run_in_node(page[0], [["rand", seed, 1300] for seed in (0, 7, 2**32 - 1)])
    for numbers, seed in zip(drawn, (0, 7, 2**32 - 1)):
        assert torch.equal(torch.tensor(numbers), torch.rand(1300, generator=seeded(seed)))


@needs_node
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("number", [0, 1])
def test_logits_are_pytorchs(page, number, fast):
    """Of a dLLM, whose heads are 6 wide, which is no multiple of 8, and of a GPT; for texts of several lengths."""
    texts = [torch.randint(len(UNITS) + 1, (n,), generator=seeded(n)).tolist() for n in (1, 5, 32)]
    path, *models = page
    assert models[number].config.vocab_size == len(UNITS) and len(UNITS) % 8
    _, *answers = web_page.run_in_node(path, [["open", number, fast], *(["logits", text] for text in texts)])
    for logits, text in zip(answers, texts):
        assert farthest(logits, models[number], text) < 1e-4


@needs_node
@pytest.mark.parametrize("order", diffusion.ORDERS)
def test_the_same_seed_writes_the_same_text(page, order):
    path, model, _ = page
    canvas = [3, 1, 4] + [len(UNITS)] * 20 + [3, 1, 4]
    asked = [(20, 0.8, 1), (7, 0.8, 2), (7, 0, 3)]  # (passes, temperature, seed)
    how = [dict(writing=passes, revising=0, order=order, temperature=heat) for passes, heat, _ in asked]
    questions = [["write", canvas, one, seed] for one, (*_, seed) in zip(how, asked)]
    _, *written = web_page.run_in_node(path, [["open", 0, True], *questions])
    for steps, (passes, heat, seed) in zip(written, asked):
        seen, text = [], torch.tensor([canvas])
        note = lambda tokens: seen.append(tokens[0].tolist())  # noqa: B023, E731
        diffusion.sample(model, text, passes, heat, order=order, generator=seeded(seed), on_step=note)
        assert steps == seen[1:]


@needs_node
def test_a_gpt_continues_as_on_the_command_line(page):
    path, _, model = page
    canvas = [3, 1, 4] + [len(UNITS)] * 29
    _, steps = web_page.run_in_node(path, [["open", 1, True], ["write", canvas, dict(temperature=0.8), 3]])
    assert len(steps) == 29
    text = gpt.continue_text(model, torch.tensor([canvas[:3]]), 32, 0.8, generator=seeded(3))
    assert steps[-1] == text[0].tolist()


@needs_node
def test_it_writes_and_takes_back_as_lesson_6_does(page):
    path, model, _ = page
    canvas = torch.tensor([[3, 1, 4] + [len(UNITS)] * 20])
    how = dict(writing=5, revising=12, order="random", temperature=0.8)
    _, steps = web_page.run_in_node(path, [["open", 0, True], ["write", canvas[0].tolist(), how, 4]])
    sampling, seen = generation.Sampling.for_letters(20, 0.8, steps=17, revise=12), []
    generation.generate(model, canvas, sampling, seeded(4), lambda tokens: seen.append(tokens[0].tolist()))
    assert steps == seen[1:]


@needs_node
@pytest.mark.parametrize("name", ["small", "gpt_small", "tamil"])
def test_shipped_models_compute_the_same(name, tmp_path):
    model, tokenizer, _ = training.load_checkpoint(ROOT / "checkpoints" / f"{name}.safetensors")
    V, L, path = tokenizer.vocab_size, model.config.context, tmp_path / "page.html"
    path.write_text(web_page.build_page({name: model}, tokenizer.units, name), encoding="utf-8")
    text = torch.randint(V, (1, L), generator=seeded())
    noisy, _ = diffusion.mask_exactly(text, torch.tensor([L // 2]), V, seeded())
    _, logits = web_page.run_in_node(path, [["open", 0, True], ["logits", noisy[0].tolist()]])
    assert farthest(logits, model, noisy[0].tolist()) < 1e-3


def test_weights_are_carried_without_loss_and_take_less_room():
    model, tokenizer, _ = training.load_checkpoint(ROOT / "checkpoints" / "tamil.safetensors")
    packed = web_page.pack_weights(model)
    assert len(packed) * 0.75 < 0.72 * 2 * sum(p.numel() for p in model.parameters())


@pytest.mark.skipif(shutil.which("wat2wasm") is None, reason="there is no wat2wasm")
def test_the_assembled_product_is_that_of_its_source(tmp_path):
    out = tmp_path / "product.wasm"
    subprocess.run(["wat2wasm", ROOT / "web" / "product.wat", "-o", out], check=True)
    assert out.read_bytes() == (ROOT / "web" / "product.wasm").read_bytes()


def test_nothing_in_a_page_is_fetched_and_no_name_or_unit_ends_it_early():
    units = [*UNITS[:-1], "</script><img src=x onerror=alert(1)>"]
    page = web_page.build_page({"<b>&": random_dllm(units)}, units, "a 'b'.safetensors")
    assert "<title>&lt;b&gt;&amp; · tiny-dllm</title>" in page and "<img" not in page and "{{" not in page
    contents = re.search(r'<script id="contents"[^>]*>(.*?)</script>', page)[1]
    assert json.loads(contents)["units"] == units
    assert not re.findall(r'(?:src|href)="(?!data:)|\bfetch\(|XMLHttpRequest|import\(|@import|url\(', page)


def test_the_walk_writes_the_page_and_proves_what_it_says(tmp_path, monkeypatch, capsys):
    out, flags = tmp_path / "tamil.html", ["--checkpoint", str(ROOT / "checkpoints" / "tamil.safetensors"), "--out"]
    monkeypatch.setattr(web_page, "TEXTS", ((0.0, "certainty", 16), (0.8, "certainty", 16), (0.8, "random", 16)))
    monkeypatch.setattr("sys.argv", ["13_web_page.py", *flags, str(out)])
    web_page.main()
    told = capsys.readouterr().out
    assert told.strip().splitlines()[-1] == str(out) and out.stat().st_size < 2 * 10**6
    assert told.count("  checked: ") == (6 if shutil.which("node") else 0)


def test_bad_input_is_one_sentence(small_checkpoint, gpt_checkpoint, tmp_path, monkeypatch):
    write = lambda *flags: run_script("13_web_page.py", *flags)  # noqa: E731
    assert_refused(write("--out", tmp_path / "page.htm"), 2, ".html")
    assert_refused(write("--checkpoint", tmp_path / "none.safetensors"), 1, "none.safetensors")
    assert_refused(write("--checkpoint", gpt_checkpoint), 1, "is a GPT")
    other = "--gpt", ROOT / "checkpoints" / "gpt_small.safetensors"
    assert_refused(write("--checkpoint", small_checkpoint, *other), 1, "alphabet")
    monkeypatch.setattr(web_page, "MAX_PAGE", 1000)
    with pytest.raises(web_page.UserError, match="would have .* MB"):
        web_page.build_page({"small": random_dllm(UNITS)}, UNITS, "x.safetensors")


def test_older_checkpoints_are_refused():
    older, transformer = import_module("tools.older_checkpoints"), import_module("03_transformer")
    model = older.OlderTransformer(transformer.Config(65, 16, 1, 2, 8), 66)
    with pytest.raises(web_page.UserError, match="older format"):
        web_page.build_page({"old": model}, older.TINY_SHAKESPEARE_UNITS, "x.safetensors")
