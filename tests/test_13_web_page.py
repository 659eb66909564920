"""Lesson 13: the page computes what PyTorch computes. What a person sees of it is in test_13_browser.py."""

import json
import math
import re
import shlex
import shutil
import subprocess
import unicodedata
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
    path.write_text(web_page.build_page(models, tensors.Tokenizer(UNITS), "x.safetensors"), encoding="utf-8")
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
    how = [dict(writing=passes, revise=0, order=order, temperature=heat) for passes, heat, _ in asked]
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
    how = dict(writing=5, revise=12, order="random", temperature=0.8)
    _, steps = web_page.run_in_node(path, [["open", 0, True], ["write", canvas[0].tolist(), how, 4]])
    sampling, seen = generation.Sampling.for_letters(20, 0.8, steps=17, revise=12), []
    generation.generate(model, canvas, sampling, seeded(4), lambda tokens: seen.append(tokens[0].tolist()))
    assert steps == seen[1:]


@needs_node
@pytest.mark.parametrize("name", ["small", "gpt_small", "tamil"])
def test_shipped_models_compute_the_same(name, tmp_path):
    model, tokenizer, _ = training.load_checkpoint(ROOT / "checkpoints" / f"{name}.safetensors")
    V, L, path = tokenizer.vocab_size, model.config.context, tmp_path / "page.html"
    path.write_text(web_page.build_page({name: model}, tokenizer, name), encoding="utf-8")
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
    page = web_page.build_page({"<b>&": random_dllm(units)}, tensors.Tokenizer(units), "a 'b'.safetensors")
    assert "<title>&lt;b&gt;&amp; · tiny-dllm</title>" in page and "<img" not in page and "{{" not in page
    contents = re.search(r'<script id="contents"[^>]*>(.*?)</script>', page)[1]
    assert json.loads(contents)["units"] == units
    assert not re.findall(r'(?:src|href)="(?!data:)|\bfetch\(|XMLHttpRequest|import\(|@import|url\(', page)


def test_the_walk_writes_the_page_and_proves_what_it_says(tmp_path, monkeypatch, capsys):
    out, flags = tmp_path / "tamil.html", ["--checkpoint", str(ROOT / "checkpoints" / "tamil.safetensors"), "--out"]
    monkeypatch.setattr(web_page, "TEXTS", (dict(temperature=0.0, steps=16), dict(temperature=0.8, steps=9, revise=0)))
    monkeypatch.setattr("sys.argv", ["13_web_page.py", *flags, str(out)])
    web_page.main()
    told = capsys.readouterr().out
    assert told.strip().splitlines()[-1] == str(out) and out.stat().st_size < 2 * 10**6
    assert told.count("  checked: ") == (5 if shutil.which("node") else 0)
    assert not shutil.which("node") or re.search(r"a pass takes \d+ ms in the page and \d+ ms here", told)


def test_bad_input_is_one_sentence(small_checkpoint, gpt_checkpoint, tmp_path, monkeypatch):
    write = lambda *flags: run_script("13_web_page.py", *flags)  # noqa: E731
    assert_refused(write("--out", tmp_path / "page.htm"), 2, ".html")
    assert_refused(write("--checkpoint", tmp_path / "none.safetensors"), 1, "none.safetensors")
    assert_refused(write("--checkpoint", gpt_checkpoint), 1, "is a GPT")
    other = "--gpt", ROOT / "checkpoints" / "gpt_small.safetensors"
    assert_refused(write("--checkpoint", small_checkpoint, *other), 1, "alphabet")
    monkeypatch.setattr(web_page, "MAX_PAGE", 1000)
    with pytest.raises(web_page.UserError, match="would have .* MB"):
        web_page.build_page({"small": random_dllm(UNITS)}, tensors.Tokenizer(UNITS), "x.safetensors")


def test_older_checkpoints_are_refused():
    older, transformer = import_module("tools.older_checkpoints"), import_module("03_transformer")
    model = older.OlderTransformer(transformer.Config(65, 16, 1, 2, 8), 66)
    with pytest.raises(web_page.UserError, match="older format"):
        web_page.build_page({"old": model}, tensors.Tokenizer(older.TINY_SHAKESPEARE_UNITS), "x.safetensors")


# ---- What the page has from lesson 6
@needs_node
def test_settings_are_completed_as_lesson_6_completes_them(page):
    chosen = [dict(steps=s, revise=r) for s in (None, 1, 2, 7, 30, 200) for r in (None, 0, 1, 5)]
    asked = [(letters, dict(each, temperature=0.5)) for letters in (*range(1, 33), 124) for each in chosen]
    asked += [(9, dict(order="margin")), (9, {})]
    answers = web_page.run_in_node(page[0], [["completeSettings", settings, letters] for letters, settings in asked])
    [filling] = web_page.run_in_node(page[0], [["completeSettings", {}, 9, True]])  # as lesson 11 does
    wanted = generation.Sampling.for_letters(9, generation.TEMPERATURE, revise=0, letters_a_pass=1)
    assert filling == web_page.page_settings(wanted) and filling["order"] == "certainty"
    for (letters, settings), answer in zip(asked, answers):
        wanted = dict(temperature=generation.TEMPERATURE) | settings
        if (wanted.get("steps") or max(1, math.ceil(letters / 2))) <= (wanted.get("revise") or 0):
            assert "leave none" in answer["mistake"]
        else:
            assert answer == web_page.page_settings(generation.Sampling.for_letters(letters, **wanted))


@needs_node
def test_a_new_text_begins_as_in_lesson_6(page):
    answers = web_page.run_in_node(page[0], [["defaultCanvas", length] for length in range(1, 33)])
    for length, canvas in enumerate(answers, 1):
        tokenizer = tensors.Tokenizer(UNITS)
        assert canvas == generation.make_canvas(tokenizer, None, None, length, 1, "cpu")[0].tolist()


CANVASES = {  # of the printed command: what is given, with _ for what is hidden
    "small": [
        None,
        "ROMEO:" + "_" * 26,
        "_" * 20 + "\n\nJULIET:\nWhat's",
        "To  be, or ___ to be:\n\nthat is the ______",
    ],
    "shakespeare": [None, "_" * 9 + "'tis" + "_" * 9, "_" * 32, "-- it's ____, ___ $&", "\n" + "_" * 30],
    "tamil": [None, "அகர " + "_" * 20, "_" * 20 + "உலகு.", "அகர ____ எழுத்தெல்லாம் ____", "_" * 30 + "\n"],
}


@needs_node
@pytest.mark.parametrize("name", CANVASES)
def test_the_printed_command_writes_the_text_of_the_page(name, tmp_path):
    """14 settings with all shipped dLLMs; None: a new text, as the page begins."""
    checkpoint = ROOT / "checkpoints" / f"{name}.safetensors"
    model, tokenizer, _ = training.load_checkpoint(checkpoint)
    path, settings = tmp_path / "page.html", dict(steps=6, revise=2, temperature=0.7, order="")
    path.write_text(web_page.build_page({name: model}, tokenizer, str(checkpoint)), encoding="utf-8")
    texts = [["encode", text] if text else ["defaultCanvas", 24] for text in CANVASES[name]]
    canvases = web_page.run_in_node(path, texts)
    hidden = [canvas.count(tokenizer.vocab_size) for canvas in canvases]
    completed = web_page.run_in_node(path, [["completeSettings", settings, count] for count in hidden])
    asked = [(canvas, full, seed) for seed, (canvas, full) in enumerate(zip(canvases, completed))]
    questions = [["commandFor", *each, "bash or zsh"] for each in asked] + [["write", *each] for each in asked]
    _, *answers = web_page.run_in_node(path, [["open", 0, True], *questions])
    for command, steps in zip(answers, answers[len(asked) :]):
        python, script, *flags = shlex.split(command)
        code, out, err = run_script(script, *flags)
        assert (python, code) == ("python", 0), err
        assert out.strip("\n") == tokenizer.decode(steps[-1]).strip("\n"), command


@needs_node
def test_commands_for_powershell_quote_as_it_does(page):
    canvas = [UNITS.index(letter) if letter in UNITS else len(UNITS) for letter in "a day's____"]
    settings = dict(steps=4, revise=0, order="left to right", temperature=0.7)
    [command] = web_page.run_in_node(page[0], [["commandFor", canvas, settings, 3, "PowerShell"]])
    assert "'--prompt=a day''s' --ending= " in command and "'--order=left to right'" in command


@needs_node
def test_what_phones_type_is_understood(page):
    typed = "thou’s day_…\r\n"
    [tokens, mistake] = web_page.run_in_node(page[0], [["encode", typed], ["encode", "Shall 7"]])
    expected = "thou's day_...\n" if "\n" in UNITS else None
    assert expected is None or tensors.Tokenizer([*UNITS, "_"]).decode(tokens) == expected
    assert "“7” (number 7)" in mistake["mistake"]


@needs_node
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_letters_are_taken_as_the_tokenizer_takes_them(form, tmp_path):
    word = unicodedata.normalize(form, "Ti\u1ebfng")
    tokenizer, path = tensors.Tokenizer(sorted({*word, "\u200c"})), tmp_path / "page.html"  # the non-joiner is a letter
    path.write_text(web_page.build_page(dict(a=random_dllm(tokenizer.units)), tokenizer, "x"), encoding="utf-8")
    typed = ["Ti\u1ebfng", "Tie\u0302\u0301ng", "T\u00adi\u1ebfng", "n\u200c\u200be\u0302\u0301"]
    answers = web_page.run_in_node(path, [["encode", text] for text in typed])
    assert answers == [tokenizer.encode_typed(text) for text in typed]
    assert tokenizer.decode(answers[3]) == "n\u200c" + word[2:-2]


@needs_node
def test_a_link_brings_back_the_text_and_the_settings(page):
    canvas = [UNITS.index(letter) for letter in "a day's + &"[:7]] + [len(UNITS)] * 5
    chosen = dict(steps=7, revise=None, order="left to right", temperature=0, seed=5)
    [link] = web_page.run_in_node(page[0], [["linkFor", canvas, chosen]])
    [back, nothing] = web_page.run_in_node(page[0], [["readLink", link], ["readLink", ""]])
    assert back == dict(canvas=canvas, choices={name: value for name, value in chosen.items() if value is not None})
    assert nothing is None


@needs_node
@pytest.mark.parametrize("room", [7, 20, 200])
def test_no_letter_stands_outside_the_canvas(page, room):
    """Widths as of Tamil letters; masks alone and a text; words longer than a line."""
    kinds = (["hidden"] * 50, ["letter"] * 50, (["letter"] * 4 + ["space"] + ["letter"] * 3 + ["break"]) * 6)
    cells = [[dict(kind=kind, width=1 + i % 3) for i, kind in enumerate(row)] for row in kinds]
    answers = web_page.run_in_node(page[0], [["layOut", row, room, 3] for row in cells])
    for row, answer in zip(cells, answers):
        taken = set()
        for cell, place in zip(row, answer["places"], strict=True):
            assert place["x"] >= 0 and place["x"] + cell["width"] <= room + 3 and place["line"] < answer["lines"]
            places = {(place["line"], place["x"] + i) for i in range(cell["width"])}
            assert not places & taken  # no two letters stand at one place
            taken |= places


@needs_node
def test_what_a_head_looks_at_is_its_softmax(page):
    path, model, _ = page
    tokens = torch.randint(len(UNITS) + 1, (1, 9), generator=seeded())
    _, one, every = web_page.run_in_node(
        path, [["open", 0, True], ["attention", tokens[0].tolist(), 1, 0], ["attention", tokens[0].tolist(), -1, -1]]
    )
    seen = []
    attention = import_module("02_attention")
    for block in model.blocks:
        block.attention.register_forward_pre_hook(lambda layer, given: seen.append((layer, given[0])))
    model(tokens)
    scores = []
    for layer, x in seen:
        heads = lambda part: part(x).view(1, 9, 2, 6).transpose(1, 2)  # noqa: B023, E731 [1, H, T, d]
        q, k = (attention.rotate(heads(part), torch.arange(9)) for part in (layer.query, layer.key))
        scores.append(torch.softmax(q @ k.transpose(2, 3) / 6**0.5, dim=-1))  # [1, H, T, T]
    assert torch.allclose(torch.tensor(one).view(9, 9), scores[1][0, 0], atol=1e-5)
    assert torch.allclose(torch.tensor(every).view(9, 9), torch.cat(scores).mean(dim=(0, 1)), atol=1e-5)
