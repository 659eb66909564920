"""Lesson 13 as a person meets it: the page in a headless Chromium, opened from a file, without a network."""

import os
import re
from importlib import import_module

import pytest
from browser import browsing, find_chromium, find_driver
from conftest import ROOT, VERSE, in_bfloat16, random_dllm, random_gpt

tensors = import_module("01_tensors")
training = import_module("05_train")
web_page = import_module("13_web_page")

pytestmark = pytest.mark.skipif(not (find_driver() and find_chromium()), reason="there is no Chromium and chromedriver")
UNITS = sorted(set(VERSE))
LEFT, RIGHT, HOME, TAB, ENTER, ESCAPE = "\ue012", "\ue014", "\ue011", "\ue004", "\ue007", "\ue00c"
READY = "get('status').textContent.startsWith('Ready')"
FINISHED = "get('play').textContent === 'Once more'"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def race(tmp_path_factory):
    """The path of a page with a small dLLM and a small GPT."""
    models = dict(dllm=in_bfloat16(random_dllm(UNITS)), gpt=in_bfloat16(random_gpt(len(UNITS), 32)))
    path = tmp_path_factory.mktemp("page") / "race.html"
    path.write_text(web_page.build_page(models, UNITS, "x.pt"), encoding="utf-8")
    return path


@pytest.fixture
def page(browser, race):
    """The browser with the page open, quick; afterwards nothing was fetched and nothing complained."""
    browser.open(race)
    browser.wait(READY)
    browser.run("get('speed').value = '0'")
    yield browser
    assert [url for url in browser.requests() if not url.startswith("blob:")] == [race.as_uri()]
    assert browser.console() == []


def text(browser, who="dllm"):
    """The text on the screen, _ for every hidden letter."""
    cells = f"[...document.querySelectorAll('#{who} .cells > span')]"
    return browser.run(
        f"return {cells}.map((c) => (c.className === 'mask' ? '_' : c.textContent.replace('↵', ''))).join('')"
    )


def set_value(browser, name, value):
    browser.run(
        "const e = get(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('change', {bubbles: true}))",
        name,
        str(value),
    )


def type_text(browser, written):
    browser.click("#type")
    browser.run("get('text').value = arguments[0]", written)
    browser.click("#editor button.main")


def test_masks_turn_into_text_and_the_gpt_races(page):
    assert text(page) == "_" * 32
    page.click("#play")
    page.wait(FINISHED)
    assert "_" not in text(page) and len(text(page)) == len(text(page, "gpt")) == 32
    assert set(text(page) + text(page, "gpt")) <= set(UNITS)
    assert page.text("#dllm .count").startswith("16 passes") and page.text("#gpt .count").startswith("32 passes")
    last = text(page)
    page.run("get('time').value = 3; get('time').oninput()")
    assert 0 < text(page).count("_") < 32 and page.text("#clock").startswith("pass 3 of 16")
    page.click("#play")  # goes on from there, without computing it anew
    page.wait(FINISHED)
    assert text(page) == last


def test_the_page_writes_what_python_writes(page, race):
    for name, value in dict(seed=5, steps=8, revise=0, order="margin", temp=0.7).items():
        set_value(page, name, value)
    page.click("#play")
    page.wait(FINISHED)
    assert "--order margin --steps 8 --revise 0 --temp 0.7 --seed 5" in page.text("#terminal")
    diffusion, torch = import_module("04_diffusion"), import_module("torch")
    canvas, generator = torch.full((1, 32), len(UNITS)), torch.Generator().manual_seed(5)
    tokens = diffusion.sample(in_bfloat16(random_dllm(UNITS)), canvas, 8, 0.7, order="margin", generator=generator)
    assert text(page) == tensors.Tokenizer(UNITS).decode(tokens[0])


def test_what_was_given_stays(page):
    given = "Shall I compare ____ to a ____?"
    type_text(page, given)
    assert text(page) == given and "8 of 31 letters" in page.text("#status")
    page.click("#play")
    page.wait(FINISHED)
    assert re.fullmatch(re.escape(given).replace("_", "(?s:.)"), text(page)) and "_" not in text(page)


def test_letters_are_hidden_by_clicks_and_drags(page):
    type_text(page, "Shall I compare thee?")
    page.drag("#dllm-2", "#dllm-2")
    assert text(page) == "Sh_ll I compare thee?"
    page.drag("#dllm-8", "#dllm-14")
    assert text(page) == "Sh_ll I _______ thee?"
    page.drag("#dllm-2", "#dllm-2")  # once more gives it back
    assert text(page) == "Shall I _______ thee?"
    page.click("#play")
    page.wait(FINISHED)
    assert text(page).startswith("Shall I ") and text(page).endswith(" thee?") and "_" not in text(page)


def test_bars_show_the_best_guesses(page):
    set_value(page, "revise", 0)
    type_text(page, "Shall I _______ thee?")
    page.run("moveTo(9)")
    page.wait("get('bars').children.length === 8")
    assert "is hidden" in page.text("#where")
    shares = page.run("return [...document.querySelectorAll('.share')].map((e) => e.textContent)")
    numbers = [float(share.strip("<%")) for share in shares]
    assert numbers == sorted(numbers, reverse=True) and sum(numbers) <= 100.5
    page.click("#play")
    page.wait(FINISHED)
    page.run("moveTo(9)")
    assert "was drawn in pass" in page.text("#where") and "were" in page.text("#where")
    page.run("moveTo(0)")
    assert "was given" in page.text("#where")


def test_letters_are_taken_back(page):
    for name, value in dict(steps=12, revise=6, seed=1).items():
        set_value(page, name, value)
    page.click("#play")
    page.wait(FINISHED)
    page.run("get('time').value = 7; get('time').oninput()")
    assert page.run("return document.querySelectorAll('#dllm .taken').length") == 6  # 32 letters in 6 passes
    assert "--steps 12 --revise 6" in page.text("#terminal")


def test_the_keyboard_alone_will_do(page):
    page.run("get('play').focus()")
    page.keys(ENTER)
    page.wait(FINISHED)
    page.run("document.querySelector('#dllm .cells').focus()")
    page.keys(HOME, RIGHT, RIGHT, " ", RIGHT, " ")
    assert [i for i, letter in enumerate(text(page)) if letter == "_"] == [2, 3]
    assert page.run("return document.activeElement.getAttribute('aria-activedescendant')") == "dllm-3"
    assert page.run("return document.querySelector('#dllm-3').getAttribute('aria-selected')") == "true"
    page.run("get('type').focus()")
    page.keys(ENTER)
    page.wait("!get('editor').hidden && document.activeElement.id === 'text'")
    page.keys(ESCAPE)
    assert page.run("return get('editor').hidden")
    inputs = "[...document.querySelectorAll('button, input, select, textarea')]"
    unnamed = f"{inputs}.filter((e) => !(e.textContent.trim() || e.labels?.length || e.ariaLabel))"
    assert page.run(f"return {unnamed}.length") == 0


@pytest.mark.parametrize(
    "written, words",
    [("Shall 7", ["“7”", "number 7"]), ("S" * 40, ["40 letters", "32"]), ("", ["Type some text"]),
     ("<b>Shall", ["“<”", "number 1"])],
)  # fmt: skip
def test_a_text_that_will_not_do_is_one_sentence(page, written, words):
    type_text(page, written)
    for word in words:
        assert word in page.text("#mistake")
    assert page.run("return document.querySelectorAll('b').length") == 0


@pytest.mark.parametrize(
    "name, value, word",
    [("temp", 11, "Temperature"), ("len", 33, "Letters"), ("seed", -1, "Seed"), ("revise", 90, "leave none")],
)
def test_a_setting_that_will_not_do_is_one_sentence(page, name, value, word):
    set_value(page, name, value)
    page.click("#play")
    assert word in page.text("#status") or name == "len"
    if name != "len":
        assert text(page) == "_" * 32


def test_markup_in_the_alphabet_is_text(browser, tmp_path):
    units = ["<img src=x onerror=document.title=1>", *UNITS[1:]]
    path = tmp_path / "markup.html"
    path.write_text(web_page.build_page({"m": random_dllm(units)}, units, "x.pt"), encoding="utf-8")
    browser.open(path)
    browser.wait(READY)
    type_text(browser, units[0] + "_")
    assert units[0] in browser.text("#dllm .cells") and browser.run("return document.images.length") == 0
    assert browser.console() == []


def test_browsers_without_what_it_needs_are_told_so(browser, race):
    for missing, word in (["Worker"], "Workers"), (["DecompressionStream"], "DecompressionStream"):
        source = dict(source=f"for (const name of {missing}) delete window[name]")
        mark = browser.devtools("Page.addScriptToEvaluateOnNewDocument", **source)["identifier"]
        browser.open(race)
        assert "too old" in browser.text("#status") and word in browser.text("#status")
        browser.devtools("Page.removeScriptToEvaluateOnNewDocument", identifier=mark)


@pytest.mark.parametrize("name", ["small", "tamil"])
def test_shipped_models_write_and_are_looked_at(browser, name, tmp_path):
    """Saves screenshots, wide, on a phone and in the dark, where SCREENSHOTS names a folder for them."""
    model, tokenizer, _ = training.load_checkpoint(ROOT / "checkpoints" / f"{name}.pt")
    path, folder = tmp_path / f"{name}.html", os.environ.get("SCREENSHOTS") or tmp_path
    path.write_text(web_page.build_page({name: model}, tokenizer.units, f"checkpoints/{name}.pt"), encoding="utf-8")
    browser.open(path)
    browser.run("get('speed').value = '0'")
    for setting, value in dict(len=96, steps=12, seed=2).items():
        set_value(browser, setting, value)
    browser.click("#play")  # before it has unpacked
    browser.wait("document.querySelector('.cells .new')")
    browser.wait(FINISHED)
    for shape, size in dict(wide=(1200, 900, False), dark=(1200, 900, True), phone=(390, 1700, False)).items():
        browser.screenshot(f"{folder}/{name}_{shape}.png", *size)
        fits = browser.run("return document.documentElement.scrollWidth <= innerWidth")
        assert fits, shape
    browser.devtools("Emulation.clearDeviceMetricsOverride")
