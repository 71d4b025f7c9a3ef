"""Drives a headless Chromium by its DevTools protocol over a pipe, so that tests of pages need no further package."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT = 30.0
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
        "ArrowDown": 40, "Delete": 46, " ": 32}  # fmt: skip


# Chromium reads commands from the file descriptor 3 and writes to 4.
LAUNCH = """
import os, sys
reading, writing = (os.dup(int(number)) for number in sys.argv[1:3])
while min(reading, writing) < 5:
    reading, writing = os.dup(reading), os.dup(writing)
os.dup2(reading, 3)
os.dup2(writing, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """A tab of the browser."""

    def __init__(self, reading: int, writing: int):
        self.reading, self.writing = reading, writing
        self.data, self.number, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Sends a command and returns its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session and not method.startswith(("Target", "Browser")) else {}
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self.data:
            part = os.read(self.reading, 1 << 16)
            assert part, "the browser has ended"
            self.data += part
        text, _, self.data = self.data.partition(b"\0")
        return json.loads(text)

    def open(self, path: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Opens a file of this machine in a window of the given size."""
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait(lambda: self.js("document.readyState") == "complete")

    def resize(self, width: int, height: int = 900) -> None:
        """Changes the size of the window. A narrow one is that of a phone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def js(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: Callable[[], object]) -> None:
        """Waits until a condition is true."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, "the condition has not become true"
            time.sleep(0.05)

    def press(self, key: str, times: int = 1) -> None:
        """Presses a key."""
        code = KEYS.get(key) or ord(key.upper())
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                extra = {"text": text} if text and kind == "keyDown" else {}
                self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **extra)

    def click(self, selector: str) -> None:
        """Clicks the middle of the first element that a CSS selector finds, as a mouse does."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.js(f"{found}.scrollIntoView({{block: 'center'}})")
        box = self.js(f"(({{x, y, width, height}}) => [x, y, width, height])({found}.getBoundingClientRect())")
        place = box[0] + box[2] / 2, box[1] + box[3] / 2
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def choose(self, identifier: str, value: str) -> None:
        """Chooses an option of a select element."""
        self.js(
            f"(() => {{ const one = document.getElementById({json.dumps(identifier)}); one.value = {json.dumps(value)};"
            "one.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def screenshot(self, path: Path, *, full: bool = False) -> None:
        """Saves an image of the window, or of the full page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)["data"]
        path.write_bytes(base64.b64decode(data))

    @property
    def errors(self) -> list[str]:
        """Errors of scripts, of the content security policy and of the network."""
        found = []
        for event in self.events:
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"]))
            elif event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                found.append(str(event["params"]["entry"]["text"]))
        return found

    @property
    def requests(self) -> list[str]:
        """Addresses that the page has requested, except embedded data."""
        urls = [
            str(event["params"]["request"]["url"])
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """Context manager of a browser with an empty profile in a folder, to which it saves downloads.

    Skips the test if there is no Chromium.
    """
    program = next((path for path in map(shutil.which, NAMES) if path), None)
    if program is None:
        pytest.skip(f"no Chromium is installed ({', '.join(NAMES)})")
    (folder / "downloads").mkdir(parents=True, exist_ok=True)
    commands, writing = os.pipe()
    reading, answers = os.pipe()
    options = ["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
               "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", LAUNCH, str(commands), str(answers), program, *options],
        pass_fds=(commands, answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands)
    os.close(answers)
    try:
        page = Page(reading, writing)
        page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str((folder / "downloads").resolve()))
        yield page
    finally:
        os.close(writing)
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(reading)
