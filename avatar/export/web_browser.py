"""A real browser for tests and measurements: headless Chromium over its debugging protocol."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from avatar.checks import InputError

NAMES = ("chromium", "chromium-browser", "google-chrome")
START_S = 60.0
ANSWER_S = 180.0
"""Software WebGL on two busy cores takes its time."""


def find_chromium() -> Path | None:
    """Return the browser's program, or None where it is not installed."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return Path(found) if found else None


class Chromium:
    """Headless Chromium with software WebGL and one page; a context manager.

    ``errors`` collects what the page wrote to its console as errors and what it threw, ``requests`` every
    address that it asked for.
    """

    def __init__(
        self, profile: Path, *, width: int = 1100, height: int = 720, webgl: bool = True
    ) -> None:
        """Start it with an empty profile folder; ``webgl`` False refuses WebGL to pages.

        Raises:
            InputError: no Chromium is installed, or it does not start.
        """
        program = find_chromium()
        if program is None:
            raise InputError(
                "This needs the Chromium browser, which is not installed. Install it with your system's "
                "packages, for example: apt-get install chromium"
            )
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._calls = 0
        graphics = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
        command = [
            str(program),
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(graphics if webgl else ("--disable-3d-apis",)),
            *("--autoplay-policy=no-user-gesture-required", "--use-fake-ui-for-media-stream"),
            "--use-fake-device-for-media-stream",
            *(f"--user-data-dir={profile}", f"--window-size={width},{height}"),
            *("--remote-debugging-port=0", "about:blank"),
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ)
        )
        try:
            self._attach(profile, width, height)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _attach(self, profile: Path, width: int, height: int) -> None:
        # Imported here: only who measures needs it, and it comes with viser.
        from websockets.sync.client import connect

        port_file = Path(profile) / "DevToolsActivePort"
        end = time.monotonic() + START_S
        # Chromium writes the port first and the path after it.
        while not (port_file.is_file() and port_file.read_text().count("\n") >= 1):
            if self.process.poll() is not None or time.monotonic() > end:
                raise InputError("Chromium does not start. Run it by hand to see why.")
            time.sleep(0.05)
        port, path = port_file.read_text().split()
        self._socket = connect(f"ws://127.0.0.1:{port}{path}", max_size=2**28)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = session["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.page(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser; twice does no harm."""
        self._socket.close()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one command of the protocol and return its answer; raises RuntimeError if it fails."""
        self._calls += 1
        message: dict[str, Any] = {"id": self._calls, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=ANSWER_S))
            if answer.get("id") == self._calls:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer.get("method"), answer.get("params", {}))

    def _note(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(
                details.get("exception", {}).get("description", details.get("text", ""))
            )
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(a.get("value")) for a in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def page(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command to the page."""
        return self.call(method, self._session, **params)

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        """Give the page another size in CSS pixels; ``mobile`` behaves as a phone does."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.page("Emulation.setDeviceMetricsOverride", **metrics)

    def open(self, address: str) -> None:
        """Go to an address."""
        self.page("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """Return the value of JavaScript, promises waited for; raises RuntimeError with what it throws."""
        done = self.page(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"].get("exception", {}).get("description"))
        return done["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60.0) -> Any:
        """Return the value of JavaScript once it is true; raises TimeoutError after some seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            time.sleep(0.05)
        raise TimeoutError(
            f"{script} did not come true within {seconds:g} s; errors: {self.errors}"
        )

    def picture(self) -> np.ndarray:
        """Return the page as it looks, uint8 [H, W, 3] RGB."""
        png = base64.b64decode(self.page("Page.captureScreenshot", format="png")["data"])
        return np.array(Image.open(io.BytesIO(png)).convert("RGB"))
