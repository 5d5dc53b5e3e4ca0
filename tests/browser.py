"""A real browser for the tests: headless Chromium, driven over the W3C WebDriver protocol."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
]  # fmt: skip
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of element references, W3C WebDriver §11
ENTER, ESCAPE = "\ue007", "\ue00c"
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Browser:
    """One WebDriver session."""

    session: str

    def call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.session + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())["value"]

    def open(self, url: str) -> None:
        self.call("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector: str) -> str:
        value: str = self.call("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]
        return value

    def type(self, selector: str, text: str) -> None:
        self.call("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def click(self, selector: str) -> None:
        self.call("POST", f"/element/{self.find(selector)}/click", {})

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def wait_for(self, script: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self.run(f"return Boolean({script})"):
            assert time.monotonic() < deadline, f"never true: {script}; the page says: {self.text('main')}"
            time.sleep(0.05)

    def appear(self, scheme: str, width: int, height: int) -> None:
        """The system's colour scheme and the window's size, as the page sees them."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        for command, params in (("setEmulatedMedia", {"features": features}), ("setDeviceMetricsOverride", size)):
            self.call("POST", "/goog/cdp/execute", {"cmd": f"Emulation.{command}", "params": params})

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def complaints(self) -> list[str]:
        """What the browser's console holds that is worse than a note: script errors, broken content policy."""
        entries = self.call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver (Debian: chromium chromium-driver)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("driver") / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen([DRIVER, f"--port={port}"], stdout=output, stderr=output)
        try:
            _wait_until_listening(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def _wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            assert time.monotonic() < deadline, "chromedriver never listened"
            time.sleep(0.05)
        else:
            return


@pytest.fixture(scope="session")
def browser(driver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    arguments = [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]
    options = {"args": arguments, "binary": CHROMIUM}
    wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    made = Browser(driver).call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
    session = Browser(f"{driver}/session/{made['sessionId']}")
    yield session
    session.call("DELETE", "")
