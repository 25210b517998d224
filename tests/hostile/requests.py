"""Requests to both servers over raw sockets; each child is a server that has to outlive a hundred of them."""

# ruff: noqa: E501 - lists of hostile values, one a line as far as they go
from __future__ import annotations

import base64
import contextlib
import io
import random
import re
import select
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tests.hostile import mutate
from tests.hostile.bases import Bases
from tests.hostile.generators import bad_picture
from tests.hostile.sandbox import Work

CLIENTS = 8
AT_ONCE = 100  # requests that one child has to take
WAIT = 1.0  # seconds after which a client that sent half a request is done
PATHS = (
    "/", "/healthz", "/metrics", "/v1/models", "/v1/models/tiny", "/v1/images/generations", "/v1/images/edits",
    "/v1/images/variations", "/v1/images/upscales", "/v1/captions", "/v1/scores", "/v1/prompts",
    "/v1/images/cutouts", "/v1/queue?ticket=x", "/v1/trainings", "/v1/trainings/x/files", "/v1/pictures/x", "/studio/studio.js",
    "/openapi.json", "/docs", "/studio/../../etc/passwd", "/studio/%2e%2e%2fapp.py", "//", "/%00", "/\xff", "/" + "a" * 9000,
    "/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/sdapi/v1/options", "/sdapi/v1/progress", "/sdapi/v1/interrupt",
    "/sdapi/v1/extra-single-image", "/sdapi/v1/png-info", "/sdapi/v1/interrogate", "/sdapi/v1/sd-models", "/sdapi/v1/../x",
    "/v1/models/%2e%2e/%2e%2e", "/v1/pictures/../x", "*", "http://evil/", "/?x=%ff", "/;", "/v1/images/generations/",
)  # fmt: skip
STUDY_PATHS = (
    "/", "/static/study.js", "/static/../x", "/pictures/x", "/r/1-aaaaaaaaaaaaaaaaaaaaaa", "/r/@", "/r/@/next", "/r/@/1/1", "/r/@/1/best",
    "/r/@/language", "/r/@/0/0", "/r/@/99999999999999999999999/1", "/r/@/1/-1", "/r/" + "9" * 5000, "/r/%ff", "/r/\u0661-x", "/%00",
)  # fmt: skip
METHODS = (
    "GET",
    "POST",
    "POST",
    "POST",
    "HEAD",
    "OPTIONS",
    "PUT",
    "DELETE",
    "TRACE",
    "PATCH",
    "CONNECT",
    "",
    "G\x00T",
    "A" * 300,
)
HOSTS = (
    "127.0.0.1",
    "127.0.0.1",
    "127.0.0.1",
    "localhost",
    "[::1]",
    "evil.example",
    "",
    "[",
    "127.0.0.1:x",
    "127.0.0.1:99999999",
    "a b",
    "\xff",
    "127.0.0.1@evil",
)
ORIGINS = (
    "http://[",
    "http://]",
    "null",
    "http://127.0.0.1",
    "//",
    "http://evil",
    "http://127.0.0.1:0x1",
    "javascript:",
    "http://[::1",
    "\xff\xfe",
    "http://\u0661",
)
HEADERS = (
    "Content-Length: -1", "Content-Length: 99999999999999999999", "Content-Length: \xb2", "Content-Length: 5\r\nContent-Length: 6", "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip", "Content-Length: 1_0", "Content-Length: +5", "Expect: 100-continue", "Connection: Upgrade\r\nUpgrade: websocket", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: \xff",
    "Authorization: Bearer \xff", "Authorization: Basic", "Accept-Language: " + ",".join(["x;q=y"] * 500), "Accept: application/json", "X: " + "a" * 60000, "Cookie: " + "a=b;" * 1000,
    "Range: bytes=0-1,2-3," + "1-2," * 2000, "Range: bytes=-9999999999999999999", "If-Modified-Since: x", "X-Forwarded-For: \x00", "Host: evil", ": x", "A", "Accept-Encoding: \xff",
)  # fmt: skip


def head(chance: random.Random, path: str, media: str, length: int | None) -> bytes:
    """The lines before a body."""
    lines = [f"{chance.choice(METHODS)} {path} HTTP/{chance.choice(['1.1'] * 12 + ['1.0', '9.9', '2', ''])}"]
    lines.append(f"Host: {'127.0.0.1' if chance.random() < 0.8 else chance.choice(HOSTS)}")
    if chance.random() < 0.15:
        lines.append(f"Origin: {chance.choice(ORIGINS)}")
    if media:
        lines.append(f"Content-Type: {media}")
    if length is not None and chance.random() < 0.95:
        lines.append(f"Content-Length: {length}")
    if chance.random() < 0.25:
        lines.append(chance.choice(HEADERS))
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def request(chance: random.Random) -> bytes:
    """A request to the server of models."""
    path = chance.choice(PATHS)
    if "generations" in path or chance.random() < 0.2:
        path = path if chance.random() < 0.1 else "/v1/images/generations"
        asked = {
            "prompt": "a red circle",
            "n": 1,
            "seed": 1,
            "size": "auto",
            "response_format": "b64_json",
            "stream": False,
            "temperature": 1.0,
            "quality": "low",
            "background": "opaque",
            "model": "dall-e-3",
            "svg": {"model": "x"},
            "negative_prompt": "",
        }
        if chance.random() < 0.3:
            asked["size"] = chance.choice(
                ["40x24", "1024x1024", "3840x2160", "9x9", "99999x1", "0x0", "x", "-1x-1"]
            )
        body = mutate.as_json(mutate.mutated(asked, chance), chance)
        media = chance.choice(
            ["application/json"] * 6 + ["text/plain", "application/json; charset=utf-16", "\xff"]
        )
    elif path.startswith("/sdapi/") and chance.random() < 0.8:
        body, media = mutate.as_json(mutate.mutated(a1111(chance), chance), chance), "application/json"
    elif path.startswith("/v1/") and chance.random() < 0.8:
        body, media = form(chance)
    else:
        body, media = b"", ""
    return spoiled(head(chance, path, media, len(body) if body else None) + body, chance)


def a1111(chance: random.Random) -> dict[str, Any]:
    """A body of A1111's API, with all that any of its paths reads."""
    data = bad_picture(chance) if chance.random() < 0.6 else good_picture(chance)
    picture = chance.choice(["", "data:image/png;base64,", "data:"]) + base64.b64encode(data).decode()
    return {
        "prompt": "a red circle",
        "negative_prompt": "x",
        "seed": 1,
        "width": chance.choice([16, 40, 512]),
        "height": chance.choice([16, 24, 512]),
        "cfg_scale": 7,
        "styles": ["pixel"],
        "override_settings": {"sd_model_checkpoint": "tiny"},
        "sd_model_checkpoint": "tiny",
        "init_images": [picture],
        "mask": picture,
        "denoising_strength": 0.5,
        "image": picture,
        "upscaling_resize": chance.choice([1, 2, 8]),
        "upscaler_1": chance.choice(["cogview", "Lanczos"]),
    }


def form(chance: random.Random) -> tuple[bytes, str]:
    """A form with pictures, and its media type."""
    line = chance.choice(["x", "-" * 70, "a b", '"', "\r\n", "é"])
    fields: dict[str, Any] = {
        "prompt": "a red circle",
        "n": "1",
        "box": "0,0,50%,50%",
        "times": "2",
        "seed": "1",
        "max_length": "4",
    }
    parts = []
    for name in chance.sample(sorted(fields), chance.randint(0, 4)):
        value = fields[name] if chance.random() < 0.6 else str(mutate.hostile(chance))[:20000]
        parts.append((f'form-data; name="{name}"', value.encode("utf-8", "replace")))
    for name in chance.choice(
        [["image"], ["image", "mask"], ["image[]", "image[]"], [], ["image"] * 9, ["other"]]
    ):
        shown = chance.choice(
            ['filename="a.png"', 'filename=""', 'filename="../../x"', "filename*=utf-8''%ff", ""]
        )
        data = bad_picture(chance) if chance.random() < 0.6 else good_picture(chance)
        parts.append((f'form-data; name="{name}"; {shown}', data))
    body = b"".join(
        f"--{line}\r\nContent-Disposition: {told}\r\n\r\n".encode() + data + b"\r\n" for told, data in parts
    )
    body += f"--{line}--\r\n".encode()
    return (
        mutate.broken(body, chance) if chance.random() < 0.15 else body
    ), f"multipart/form-data; boundary={line}"


def good_picture(chance: random.Random) -> bytes:
    from tests.hostile.bases import picture

    buffer = io.BytesIO()
    picture(chance.randrange(9)).save(buffer, "PNG")
    return buffer.getvalue()


def study_request(chance: random.Random, token: str) -> bytes:
    """A request to the pages of a study."""
    path = chance.choice(STUDY_PATHS).replace("@", token)
    fields = {
        "clarity": "3",
        "texture": "3",
        "relevance": "3",
        "overall": "5",
        "best": "1",
        "to": "zh",
        "back": "/",
    }
    pairs = [
        (name, value if chance.random() < 0.6 else str(mutate.hostile(chance))[:300])
        for name, value in fields.items()
    ]
    body = "&".join(f"{name}={value}" for name, value in chance.sample(pairs, chance.randint(0, len(pairs))))
    data = body.encode("utf-8", "replace")
    media = chance.choice(
        ["application/x-www-form-urlencoded"] * 6 + ["text/plain", "multipart/form-data; boundary=x", "\xff"]
    )
    return spoiled(head(chance, path, media, len(data)) + data, chance)


def spoiled(data: bytes, chance: random.Random) -> bytes:
    way = chance.random()
    if way < 0.08:
        return mutate.broken(data, chance)
    if way < 0.11:
        return data[: chance.randrange(1, len(data))]
    return data * 2 if way < 0.13 else data


def ask(port: int, data: bytes) -> bytes:
    """What is answered; a server that waits for more is told that there is no more."""
    found = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=30) as opened:
        opened.settimeout(30)
        sending = threading.Thread(target=_send, args=(opened, data))
        sending.start()
        if not select.select([opened], [], [], WAIT)[0] and not _complete(data):
            opened.shutdown(socket.SHUT_WR)
        while not _whole(found) and (part := opened.recv(1 << 16)):
            found += part
        sending.join(5)
    return found


def _send(opened: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        opened.sendall(data)


def _complete(data: bytes) -> bool:
    """Whether a request has all of its body, as far as one line of its head says."""
    told, blank, body = data.partition(b"\r\n\r\n")
    lengths = re.findall(rb"\r\nContent-Length: (\d{1,9})(?=\r\n|$)", told)
    return bool(blank) and len(lengths) == 1 and int(lengths[0]) <= len(body)


def _whole(found: bytes) -> bool:
    """Whether an answer has come that ends by its length."""
    told, blank, body = found.partition(b"\r\n\r\n")
    lines = [line.lower() for line in told.split(b"\r\n")]
    lengths = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")]
    return bool(blank and lengths and len(body) >= lengths[0])


def look(data: bytes, answer: bytes) -> None:
    """AssertionError for an answer that no server of ours may give."""
    if not answer:
        return
    status = int(answer.split(b" ", 2)[1])
    assert status < 500 or status in (503, 504), (status, data[:2000], answer[:500])
    assert b"nosniff" in answer.split(b"\r\n\r\n")[0].lower() or status == 100, (data[:500], answer[:500])


@contextlib.contextmanager
def models_server(models: Any) -> Iterator[int]:
    from cogview.serving import run

    with run.running(models) as (address, _):
        yield int(address.rpartition(":")[2])


@contextlib.contextmanager
def study_server(folder: Path) -> Iterator[tuple[int, str]]:
    """The pages of a study in the background: the port, and a rater's token."""
    import uvicorn

    from cogview.study.server import HEADERS, application
    from cogview.study.store import Store
    from cogview.web.connections import protocol
    from cogview.web.sockets import listen

    store = Store.open(folder)
    store.invite(2)
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        application(store),
        http=protocol(HEADERS),
        log_level="warning",
        access_log=False,
        ws="none",
        lifespan="off",
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1], store.token(1)
    finally:
        server.should_exit = True
        thread.join()


def models_case(chance: random.Random, models: Any) -> Work:
    """A server of models and its requests."""
    asked = [request(chance) for _ in range(AT_ONCE)]

    def work() -> int:
        with models_server(models) as port:
            with ThreadPoolExecutor(CLIENTS) as clients:
                for data, answer in zip(asked, clients.map(partial(ask, port), asked), strict=True):
                    look(data, answer)
            assert b" 200 " in ask(port, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")[:20]
        return 0

    return work


def study_case(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """A study's pages and their requests."""
    import shutil

    shutil.copytree(bases.study, folder / "study")
    seed = chance.random()

    def work() -> int:
        own = random.Random(seed)
        with study_server(folder / "study") as (port, token):
            asked = [study_request(own, token) for _ in range(AT_ONCE)]
            with ThreadPoolExecutor(CLIENTS) as clients:
                for data, answer in zip(asked, clients.map(partial(ask, port), asked), strict=True):
                    look(data, answer)
            assert b" 200 " in ask(port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")[:20]
        return 0

    return work
