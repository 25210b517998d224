"""Servers of tiny real families, asked over real connections."""

from __future__ import annotations

import base64
import dataclasses
import http.client
import io
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from tests.generation import tiny, tiny2

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
from cogview.serving import run
from cogview.serving.app import Server
from cogview.serving.guard import Rules
from cogview.serving.served import Models, ServedModel

GENERATIONS = "/v1/images/generations"


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """What is wrong; the shape of OpenAI's errors."""
        told: dict[str, Any] = self.json["error"]
        assert set(told) == {"message", "type", "param", "code"} and "\n" not in told["message"]
        return told

    @property
    def files(self) -> list[bytes]:
        """The pictures in it."""
        return [base64.b64decode(entry["b64_json"]) for entry in self.json["data"]]


@dataclass
class Site:
    """A running server."""

    server: Server
    port: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Reply:
        """GET, or POST where there is a body: an object as JSON, or bytes."""
        connection = self.connect()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body, given = json.dumps(body).encode(), {"Content-Type": "application/json"} | given
        connection.request(method or ("GET" if body is None else "POST"), path, body, given)
        found = connection.getresponse()
        reply = Reply(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        connection.close()
        return reply

    def draw(self, prompt: str = "a red circle", **more: Any) -> Reply:
        return self.ask(GENERATIONS, {"prompt": prompt, **more})

    def send(self, path: str, fields: dict[str, Any], **files: bytes) -> Reply:
        """A form with files."""
        line, parts = "----border", []
        for name, value in fields.items():
            head = f'Content-Disposition: form-data; name="{name}"'
            parts.append(f"--{line}\r\n{head}\r\n\r\n{value}\r\n".encode())
        for name, data in files.items():
            head = (
                f'Content-Disposition: form-data; name="{name}"; filename="{name}"\r\nContent-Type: image/png'
            )
            parts.append(f"--{line}\r\n{head}\r\n\r\n".encode() + data + b"\r\n")
        body = b"".join(parts) + f"--{line}--\r\n".encode()
        return self.ask(path, body, Content_Type=f"multipart/form-data; boundary={line}")

    def events(self, body: Any) -> Iterator[tuple[str, Any]]:
        """Server-sent events, (name, data), as they come."""
        connection = self.connect()
        connection.request("POST", GENERATIONS, json.dumps(body), {"Content-Type": "application/json"})
        found = connection.getresponse()
        assert found.status == 200, found.read()
        assert found.getheader("content-type", "").startswith("text/event-stream")
        name = ""
        while line := found.readline().decode().rstrip("\n"):
            assert line.startswith("event: ")
            name, data = line.removeprefix("event: "), found.readline().decode().removeprefix("data: ")
            assert found.readline() == b"\n"
            yield name, json.loads(data)
        connection.close()


@contextmanager
def serving(models: Models, rules: Rules | None = None, **options: Any) -> Iterator[Site]:
    """A server in the background."""
    with run.running(models, rules, **options) as (address, server):
        yield Site(server, int(address.rpartition(":")[2]))


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draws, describes and enlarges."""
    return tiny.write(tmp_path_factory.mktemp("family"), upscaling=True, captioning=True)


@pytest.fixture(scope="session")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draws, edits and describes; enlarges what it draws."""
    return tiny2.write(tmp_path_factory.mktemp("editor"), enlarging=True)


@pytest.fixture(scope="session")
def models(family: Path, editor: Path) -> Models:
    return Models.load([family, editor])


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A family that only draws."""
    return Models.load([tiny.write(tmp_path_factory.mktemp("plain"))])


@pytest.fixture(scope="module")
def site(models: Models) -> Iterator[Site]:
    with serving(models) as found:
        yield found


@pytest.fixture
def serve(models: Models) -> Iterator[Callable[..., Site]]:
    """Servers with other rules or limits."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(serving(options.pop("models", models), **options))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium by Playwright; skipped, and it says why, where one of them is missing."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if not chromium:
        pytest.skip("no Chromium on this machine; name one in CHROMIUM")
    with playwright.sync_playwright() as engine:
        try:
            started = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=180_000)
        except playwright.Error as error:
            pytest.skip(f"{chromium} does not start here: {str(error).splitlines()[0]}")
        yield started
        started.close()


class Gate:
    """Holds the worker before each token until it is allowed, so that a test has time for what happens."""

    def __init__(self, served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens, self._allowed, self._wide_open = 0, threading.Semaphore(0), False
        engine = served.cogview.text_to_image.engine
        head = engine.decoder.head

        def held(hidden: Tensor) -> Tensor:
            self.tokens += 1
            assert self._wide_open or self._allowed.acquire(timeout=60)
            return head(hidden)

        monkeypatch.setattr(engine, "decoder", dataclasses.replace(engine.decoder, head=held))

    def wait(self, token: int = 1) -> None:
        """Until so many tokens were begun."""
        until(lambda: self.tokens >= token)

    def allow(self, tokens: int) -> None:
        """Let so many more be drawn."""
        self._allowed.release(tokens)

    def open(self) -> None:
        """Hold nothing any more."""
        self._wide_open = True
        self.allow(1)


def png(mode: str = "RGB", size: tuple[int, int] = (20, 16), colour: Any = (200, 30, 40)) -> bytes:
    """A small file."""
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
