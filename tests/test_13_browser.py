"""Lesson 13 as a person meets it: the page in a headless Chromium, opened from a file, without a network."""

import json
import os
import re
import shutil
from importlib import import_module

import pytest
from conftest import ROOT, VERSE, in_bfloat16, random_dllm, random_gpt
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.support.wait import WebDriverWait

tensors = import_module("01_tensors")
training = import_module("05_train")
web_page = import_module("13_web_page")

DRIVER = shutil.which("chromedriver") or shutil.which("chromedriver", path=os.environ.get("CHROMEWEBDRIVER"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
pytestmark = pytest.mark.skipif(not (DRIVER and CHROMIUM), reason="there is no Chromium and chromedriver")
UNITS = sorted(set(VERSE))
READY = "get('status').textContent.startsWith('Ready')"
FINISHED = "get('play').textContent === 'Once more'"


class Browser(webdriver.Chrome):
    """A headless Chromium without a network."""

    run = webdriver.Chrome.execute_script

    def __init__(self, profile):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        super().__init__(options, webdriver.ChromeService(DRIVER))
        self.set_network_conditions(offline=True, latency=0, throughput=0)

    def open(self, path):
        """Opens a file, as a double click does."""
        self.get("about:blank")
        self.requests()  # those of Chromium's own first page are none of ours
        self.get(path.as_uri())

    def find(self, selector):
        return self.find_element("css selector", selector)

    def text(self, selector):
        return self.find(selector).get_property("textContent")

    def wait(self, condition):
        """Waits until a JavaScript expression is true."""
        WebDriverWait(self, 40, 0.03).until(lambda page: page.run(f"return ({condition})"), condition)

    def play(self):
        """Presses the main button, and waits until all is written."""
        self.find("#play").click()
        self.wait(FINISHED)

    def drag(self, first, second):
        """Presses the mouse on one element and lets go on another."""
        mouse, first, second = ActionChains(self, duration=0), self.find(first), self.find(second)
        mouse.scroll_to_element(first).click_and_hold(first).release(second).perform()

    def keys(self, *keys):
        """Presses keys, one after the other, wherever the focus is."""
        ActionChains(self).send_keys(*keys).perform()

    def requests(self):
        """The addresses that the page has asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
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
    assert browser.get_log("browser") == []


def text(browser, who="dllm"):
    """The text on the screen, _ for every hidden letter."""
    cells = f"[...document.querySelectorAll('#{who} .cells > span')]"
    return browser.run(
        f"return {cells}.map((c) => (c.className === 'mask' ? '_' : c.textContent.replace('↵', ''))).join('')"
    )


def set_values(browser, **values):
    """Gives the page's settings these values, as a person does."""
    for name, value in values.items():
        browser.run(f"get('{name}').value = '{value}'")
        browser.run(f"get('{name}').dispatchEvent(new Event('change', {{ bubbles: true }}))")


def type_text(browser, written):
    browser.find("#type").click()
    browser.run("get('text').value = arguments[0]", written)
    browser.find("#editor button.main").click()


def test_masks_turn_into_text_and_the_gpt_races(page):
    assert text(page) == "_" * 32
    page.play()
    assert "_" not in text(page) and len(text(page)) == len(text(page, "gpt")) == 32
    assert set(text(page) + text(page, "gpt")) <= set(UNITS)
    assert page.text("#dllm .count").startswith("16 passes") and page.text("#gpt .count").startswith("32 passes")
    last = text(page)
    page.run("get('time').value = 3; get('time').oninput()")
    assert 0 < text(page).count("_") < 32 and page.text("#clock").startswith("pass 3 of 16")
    page.play()  # goes on from there, without computing it anew
    assert text(page) == last


def test_the_page_writes_what_python_writes(page, race):
    set_values(page, seed=5, steps=8, revise=0, order="margin", temp=0.7)
    page.play()
    assert "--order margin --steps 8 --revise 0 --temp 0.7 --seed 5" in page.text("#terminal")
    diffusion, torch = import_module("04_diffusion"), import_module("torch")
    canvas, generator = torch.full((1, 32), len(UNITS)), torch.Generator().manual_seed(5)
    tokens = diffusion.sample(in_bfloat16(random_dllm(UNITS)), canvas, 8, 0.7, order="margin", generator=generator)
    assert text(page) == tensors.Tokenizer(UNITS).decode(tokens[0])


def test_what_was_given_stays(page):
    given = "Shall I compare ____ to a ____?"
    type_text(page, given)
    assert text(page) == given and "8 of 31 letters" in page.text("#status")
    page.play()
    assert re.fullmatch(re.escape(given).replace("_", "(?s:.)"), text(page)) and "_" not in text(page)


def test_letters_are_hidden_by_clicks_and_drags(page):
    type_text(page, "Shall I compare thee?")
    page.drag("#dllm-2", "#dllm-2")
    assert text(page) == "Sh_ll I compare thee?"
    page.drag("#dllm-8", "#dllm-14")
    assert text(page) == "Sh_ll I _______ thee?"
    page.drag("#dllm-2", "#dllm-2")  # once more gives it back
    assert text(page) == "Shall I _______ thee?"
    page.play()
    assert text(page).startswith("Shall I ") and text(page).endswith(" thee?") and "_" not in text(page)


def test_bars_show_the_best_guesses(page):
    set_values(page, revise=0)
    type_text(page, "Shall I _______ thee?")
    page.run("moveTo(9)")
    page.wait("get('bars').children.length === 8")
    assert "is hidden" in page.text("#where")
    shares = page.run("return [...document.querySelectorAll('.share')].map((e) => e.textContent)")
    numbers = [float(share.strip("<%")) for share in shares]
    assert numbers == sorted(numbers, reverse=True) and sum(numbers) <= 100.5
    page.play()
    page.run("moveTo(9)")
    assert "was drawn in pass" in page.text("#where") and "were" in page.text("#where")
    page.run("moveTo(0)")
    assert "was given" in page.text("#where")


def test_letters_are_taken_back(page):
    set_values(page, steps=12, revise=6, seed=1)
    page.play()
    page.run("get('time').value = 7; get('time').oninput()")
    assert page.run("return document.querySelectorAll('#dllm .taken').length") == 6  # 32 letters in 6 passes
    assert "--steps 12 --revise 6" in page.text("#terminal")


def test_the_keyboard_alone_will_do(page):
    page.run("get('play').focus()")
    page.keys(Keys.ENTER)
    page.wait(FINISHED)
    page.run("document.querySelector('#dllm .cells').focus()")
    page.keys(Keys.HOME, Keys.RIGHT, Keys.RIGHT, " ", Keys.RIGHT, " ")
    assert [i for i, letter in enumerate(text(page)) if letter == "_"] == [2, 3]
    assert page.run("return document.activeElement.getAttribute('aria-activedescendant')") == "dllm-3"
    assert page.run("return document.querySelector('#dllm-3').getAttribute('aria-selected')") == "true"
    page.run("get('type').focus()")
    page.keys(Keys.ENTER)
    page.wait("!get('editor').hidden && document.activeElement.id === 'text'")
    page.keys(Keys.ESCAPE)
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
    set_values(page, **{name: value})
    assert word in page.text("#status")
    if name != "len":  # without a length that will do, the canvas stays as it was, and can be written
        page.find("#play").click()
        assert word in page.text("#status") and text(page) == "_" * 32


def test_markup_in_the_alphabet_is_text(browser, tmp_path):
    units = ["<img src=x onerror=document.title=1>", *UNITS[1:]]
    path = tmp_path / "markup.html"
    path.write_text(web_page.build_page({"m": random_dllm(units)}, units, "x.pt"), encoding="utf-8")
    browser.open(path)
    browser.wait(READY)
    type_text(browser, units[0] + "_")
    assert units[0] in browser.text("#dllm .cells") and browser.run("return document.images.length") == 0
    assert browser.get_log("browser") == []


def test_browsers_without_what_it_needs_are_told_so(browser, race):
    for missing, word in ("Worker", "Workers"), ("DecompressionStream", "DecompressionStream"):
        source = dict(source=f"delete window.{missing}")
        mark = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
        browser.open(race)
        assert "too old" in browser.text("#status") and word in browser.text("#status")
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", mark)


@pytest.mark.parametrize("name", ["small", "tamil"])
def test_shipped_models_write_and_are_looked_at(browser, name, tmp_path):
    """Saves screenshots, wide, on a phone and in the dark, where SCREENSHOTS names a folder for them."""
    model, tokenizer, _ = training.load_checkpoint(ROOT / "checkpoints" / f"{name}.pt")
    path, folder = tmp_path / f"{name}.html", os.environ.get("SCREENSHOTS") or tmp_path
    path.write_text(web_page.build_page({name: model}, tokenizer.units, f"checkpoints/{name}.pt"), encoding="utf-8")
    browser.open(path)
    browser.run("get('speed').value = '0'")
    set_values(browser, len=96, steps=12, seed=2)
    browser.find("#play").click()  # before it has unpacked
    browser.wait("document.querySelector('.cells .new')")
    browser.wait(FINISHED)
    for shape, width, height in ("wide", 1200, 900), ("dark", 1200, 900), ("phone", 390, 1700):
        scheme = dict(name="prefers-color-scheme", value="dark" if shape == "dark" else "light")
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=[scheme]))
        size = dict(width=width, height=height, deviceScaleFactor=1, mobile=shape == "phone")
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.save_screenshot(f"{folder}/{name}_{shape}.png")
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), shape
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
