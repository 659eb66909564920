"""A headless Chromium for the tests, spoken to in the W3C's WebDriver protocol, which is JSON over HTTP."""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
]  # fmt: skip
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for a reference to an element


def find_driver():
    """The path of chromedriver, or None."""
    folder = os.environ.get("CHROMEWEBDRIVER")  # where some CI machines have it
    return shutil.which("chromedriver") or (shutil.which("chromedriver", path=folder) if folder else None)


def find_chromium():
    """The path of Chromium or Chrome, or None."""
    names = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"
    return next(filter(None, map(shutil.which, names)), None)


class Browser:
    """A session of chromedriver."""

    def __init__(self, address, folder, offline=True):
        self.address = address
        options = dict(args=[*FLAGS, f"--user-data-dir={folder}"], binary=find_chromium())
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        answer = self.call("POST", "/session", capabilities=dict(alwaysMatch=wanted))
        self.address += f"/session/{answer['sessionId']}"
        if offline:
            network = dict(offline=True, latency=0, throughput=0)
            self.call("POST", "/chromium/network_conditions", network_conditions=network)

    def call(self, method, path, **body):
        """One command of the protocol."""
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as problem:
            raise AssertionError(json.load(problem)["value"]["message"]) from None

    def open(self, path):
        """Opens a file, as a double click does."""
        self.call("POST", "/url", url="about:blank")
        self.requests()  # those of Chromium's own first page are none of ours
        self.call("POST", "/url", url=Path(path).as_uri())

    def run(self, script, *arguments):
        """Runs JavaScript in the page; returns what it returns."""
        return self.call("POST", "/execute/sync", script=script, args=list(arguments))

    def wait(self, condition, seconds=40):
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(f"return ({condition})")):
            assert time.monotonic() < end, f"never came true: {condition}; status: {self.text('#status')}"
            time.sleep(0.03)
        return value

    def text(self, selector):
        """The text of an element."""
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def click(self, selector):
        """Clicks an element with the mouse."""
        found = self.call("POST", "/element", using="css selector", value=selector)
        self.call("POST", f"/element/{found[ELEMENT]}/click")

    def drag(self, first, second):
        """Presses the mouse on one element and lets go on another; the same one: a click."""
        self.run("document.querySelector(arguments[0]).scrollIntoView({ block: 'center' })", first)
        places = []
        for selector in (first, second):
            box = "const b = document.querySelector(arguments[0]).getBoundingClientRect();"
            places.append(
                self.run(box + "return [b.left + b.width / 2, b.top + b.height / 2].map(Math.round)", selector)
            )
        moves = [dict(type="pointerMove", duration=0, x=x, y=y) for x, y in places]
        steps = [moves[0], dict(type="pointerDown", button=0), moves[1], dict(type="pointerUp", button=0)]
        self.call("POST", "/actions", actions=[dict(type="pointer", id="mouse", actions=steps)])

    def keys(self, *keys):
        """Presses keys, one after the other, wherever the focus is."""
        steps = [dict(type=kind, value=key) for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", actions=[dict(type="key", id="keyboard", actions=steps)])

    def screenshot(self, path, width, height, dark=False):
        """Saves what a window of this size shows."""
        features = [dict(name="prefers-color-scheme", value="dark" if dark else "light")]
        self.devtools("Emulation.setEmulatedMedia", features=features)
        size = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        Path(path).write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def devtools(self, command, **parameters):
        """A command of Chromium's own protocol."""
        return self.call("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def requests(self):
        """The addresses that the page has asked for since the last call."""
        entries = [
            json.loads(entry["message"])["message"] for entry in self.call("POST", "/se/log", type="performance")
        ]
        return [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]

    def console(self):
        """What was written to the console since the last call."""
        return [entry["message"] for entry in self.call("POST", "/se/log", type="browser")]


@contextmanager
def browsing(folder):
    """Starts a browser with an empty profile in a folder, and ends it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([find_driver(), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):  # until it listens
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        browser = Browser(f"http://127.0.0.1:{port}", folder)
        try:
            yield browser
        finally:
            browser.call("DELETE", "")
    finally:
        driver.terminate()
        driver.wait()
