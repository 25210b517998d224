"""A client of WebDriver BiDi, https://w3c.github.io/webdriver-bidi, where Playwright cannot drive."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PREFERENCES = {
    "browser.shell.checkDefaultBrowser": False, "browser.startup.homepage_override.mstone": "ignore",
    "datareporting.policy.dataSubmissionEnabled": False, "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False, "app.update.enabled": False,
}  # fmt: skip

MIDDLE = """(css) => {
  const node = document.querySelector(css);
  node.scrollIntoView({ block: "center" });
  const { x, y, width, height } = node.getBoundingClientRect();
  return [x + width / 2, y + height / 2];
}"""


class Tab:
    """One tab of a browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection, self.numbers = connection, itertools.count(1)
        self.complaints: list[str] = []  # errors that the page's console shows
        self.send("session.new", capabilities={})
        self.send("session.subscribe", events=["log.entryAdded"])
        self.context = self.send("browsingContext.getTree")["contexts"][0]["context"]

    def send(self, method: str, **params: Any) -> Any:
        """A command's result; what the browser says meanwhile is noted."""
        number = next(self.numbers)
        self.connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            said = json.loads(self.connection.recv(timeout=180))
            if said.get("method") == "log.entryAdded" and said["params"]["level"] == "error":
                self.complaints.append(str(said["params"].get("text")))
            if said.get("id") == number:
                assert said["type"] == "success", f"{method}: {said.get('error')}: {said.get('message')}"
                return said["result"]

    def open(self, address: str) -> None:
        self.send("browsingContext.navigate", context=self.context, url=address, wait="complete")
        self.wait("document.body.dataset.ready !== undefined")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript, by JSON."""
        text = f"Promise.resolve({expression}).then((value) => JSON.stringify(value ?? null))"
        target = {"context": self.context}
        found = self.send("script.evaluate", expression=text, target=target, awaitPromise=True)
        assert found["type"] == "success", found["exceptionDetails"]["text"]
        return json.loads(found["result"]["value"])

    def wait(self, condition: str, seconds: float = 150) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, condition
            time.sleep(0.2)

    def resize(self, width: int, height: int) -> None:
        viewport = {"width": width, "height": height}
        self.send("browsingContext.setViewport", context=self.context, viewport=viewport)

    def middle(self, css: str) -> tuple[int, int]:
        """The middle of an element, which is scrolled into view, in the window."""
        x, y = self.evaluate(f"({MIDDLE})({json.dumps(css)})")
        return round(x), round(y)

    def press(self, *points: tuple[int, int]) -> None:
        """The mouse's button down at the first point, moved over the others, and up."""
        moves = [{"type": "pointerMove", "x": x, "y": y} for x, y in points]
        actions = [
            moves[0],
            {"type": "pointerDown", "button": 0},
            *moves[1:],
            {"type": "pointerUp", "button": 0},
        ]
        device = {"type": "pointer", "id": "mouse", "actions": actions}
        self.send("input.performActions", context=self.context, actions=[device])

    def click(self, css: str) -> None:
        self.press(self.middle(css))

    def type(self, text: str) -> None:
        """Keys, into what has the focus."""
        keys = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        device = {"type": "key", "id": "keyboard", "actions": keys}
        self.send("input.performActions", context=self.context, actions=[device])

    def choose_file(self, css: str, path: Path) -> None:
        locator = {"type": "css", "value": css}
        [node] = self.send("browsingContext.locateNodes", context=self.context, locator=locator)["nodes"]
        element = {"sharedId": node["sharedId"]}
        self.send("input.setFiles", context=self.context, element=element, files=[str(path)])


@contextmanager
def firefox(program: str, profile: Path) -> Iterator[Tab]:
    """Firefox without a window, with a new profile."""
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()]
    (profile / "user.js").write_text("\n".join(lines), "utf-8")
    command = [
        program,
        "--headless",
        "--no-remote",
        "--profile",
        str(profile),
        "--remote-debugging-port",
        "0",
    ]
    log = profile / "log.txt"
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        end = time.monotonic() + 180
        while not (
            found := re.search(r"WebDriver BiDi listening on (ws://\S+)", log.read_text("utf-8", "replace"))
        ):
            assert process.poll() is None and time.monotonic() < end, log.read_text("utf-8", "replace")
            time.sleep(0.2)
        with connect(f"{found[1]}/session", max_size=None) as connection:
            yield Tab(connection)
    finally:
        process.terminate()
        process.wait(60)
