"""A headless Chromium, spoken to by its own protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
from websockets.sync.client import connect

KEYS = {"Enter": 13, "Tab": 9, "ArrowDown": 40, "Escape": 27}


class Page:
    """One tab."""

    def __init__(self, socket):
        self._socket, self._numbers = socket, itertools.count(1)
        self.complaints = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message):
        name, metadata = message["method"], message["params"]
        if name == "Runtime.exceptionThrown":
            self.complaints.append(metadata["exceptionDetails"])
        elif name == "Log.entryAdded" and metadata["entry"]["level"] in ("error", "warning"):
            self.complaints.append(metadata["entry"]["text"])
        elif name == "Network.requestWillBeSent":
            url = metadata["request"]["url"]
            if not url.startswith(("http://127.0.0.1", "data:")):
                self.complaints.append(f"loads {url}")

    def open(self, url, width=1280, height=860):
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.send("Page.navigate", url=url)

    def value(self, script):
        result = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script, seconds=20):
        deadline = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < deadline, f"never came true: {script}"
            time.sleep(0.05)

    def press(self, *keys):
        for key in keys:
            code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
            text = {"text": "\r"} if key == "Enter" else {}
            self.send("Input.dispatchKeyEvent", type="keyDown", **code, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", **code)

    def type(self, text):
        self.send("Input.insertText", text=text)

    def picture(self, file, whole=True):
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)[
            "data"
        ]
        Path(file).write_bytes(base64.b64decode(data))


@contextmanager
def chromium(folder):
    """Yield a page of a browser of its own."""
    command = [
        shutil.which("chromium"),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
    ]
    command += [
        "--disable-dev-shm-usage",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
        "about:blank",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        told, deadline = Path(folder) / "DevToolsActivePort", time.monotonic() + 30
        while not (told.is_file() and told.read_text().strip()):
            assert process.poll() is None, "the browser ended"
            assert time.monotonic() < deadline, "the browser did not start in 30 seconds"
            time.sleep(0.05)
        port = told.read_text().split()[0]
        tabs = httpx.get(f"http://127.0.0.1:{port}/json", trust_env=False).json()
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        with connect(address, max_size=None, proxy=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(10)
