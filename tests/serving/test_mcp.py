"""The tools for agents, asked by the official SDK's client over both transports."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
from PIL import Image

from cogview import CogView2, from_pretrained
from cogview.serving.guard import Rules
from cogview.serving.openai.fields import EDIT_MASK_RATIOS
from cogview.serving.quotas import Key
from cogview.serving.schema import Edit
from cogview.serving.served import Models
from tests.serving.conftest import png

pytest.importorskip("mcp.server.mcpserver", reason="the extra `mcp` is not installed")
from mcp import StdioServerParameters
from mcp.client.client import Client

from cogview.serving import run
from cogview.serving.app import Server
from cogview.serving.mcp_run import running
from cogview.serving.mcp_tools import Tools
from cogview.serving.metrics import Metrics
from cogview.serving.worker import Worker
from cogview.web.sockets import listen

PROMPT = "a red circle"
T = TypeVar("T")


def tools(models: Models, folder: Path | None = None, **rules: Any) -> Tools:
    metrics = Metrics()
    return Tools(Server(models, Worker(metrics), metrics, Rules(run.hosts_for("127.0.0.1"), **rules)), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mcp")


@pytest.fixture(scope="module")
def address(models: Models, folder: Path) -> Any:
    with running(tools(models, folder), listen("127.0.0.1", 0)) as found:
        yield found


def asking(server: Any, work: Callable[[Client], Awaitable[T]]) -> T:
    """What ``work`` finds with a client of a server."""

    async def ask() -> T:
        async with Client(server) as client:
            return await work(client)

    return asyncio.run(ask())


def call(server: Any, name: str, **arguments: Any) -> Any:
    return asking(server, lambda client: client.call_tool(name, arguments))


def images(result: Any) -> list[bytes]:
    assert not result.is_error, result.content
    return [base64.b64decode(one.data) for one in result.content if one.type == "image"]


def facts(result: Any) -> list[dict[str, Any]]:
    return [json.loads(one.text) for one in result.content if one.type == "text"]


def test_images_are_generated_saved_and_told(address: str, family: Path, folder: Path) -> None:
    result = call(address, "generate_image", prompt=PROMPT, n=2, seed=7)
    made = from_pretrained(family).generate(PROMPT, n=2, seed=7)
    assert images(result) == [one.png() for one in made]
    for one, data in zip(facts(result), images(result), strict=True):
        assert one["seed"] == 7 and one["size"] == "16x16"
        assert Path(one["file"]).parent == folder and Path(one["file"]).read_bytes() == data


def test_sizes_and_backgrounds(address: str) -> None:
    result = call(
        address, "generate_image", prompt=PROMPT, width=64, height=32, quality="low", transparent=True
    )
    assert Image.open(io.BytesIO(images(result)[0])).size == (64, 32)


def test_an_edit_by_a_mask_and_by_a_box(address: str, editor: Path, folder: Path) -> None:
    (folder / "given.png").write_bytes(png())
    hole = np.zeros((16, 20), bool)
    hole[:, :8] = True
    buffer = io.BytesIO()
    Image.fromarray(hole).save(buffer, "PNG")
    mask = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    asked = {"image": "given.png", "prompt": PROMPT, "seed": 5}
    [made] = CogView2.from_pretrained(editor).edit(Image.open(io.BytesIO(png())), PROMPT, hole, seed=5)
    assert images(call(address, "edit_image", mask=mask, **asked)) == [made.png()]
    by_box = images(call(address, "edit_image", box=["0,0,8,16"], **asked))
    assert np.array_equal(*(np.asarray(Image.open(io.BytesIO(x))) for x in (by_box[0], made.png())))


def test_an_edit_without_mask_and_box_is_a_variation(address: str, editor: Path, folder: Path) -> None:
    (folder / "given.png").write_bytes(png())
    image = Image.open(io.BytesIO(png()))
    share = EDIT_MASK_RATIOS[Edit(prompt=PROMPT).input_fidelity]
    [made] = CogView2.from_pretrained(editor).vary(image, PROMPT, mask_ratio=share, seed=5)
    [found] = images(call(address, "edit_image", image="given.png", prompt=PROMPT, seed=5))
    assert np.array_equal(*(np.asarray(Image.open(io.BytesIO(x))) for x in (found, made.png())))


def test_descriptions_and_ranks_are_the_librarys(address: str, family: Path) -> None:
    model = from_pretrained(family)
    made = model.generate(PROMPT, n=3, seed=7)
    given = [base64.b64encode(one.png()).decode() for one in made]
    told = facts(call(address, "describe_image", image=given[0], n=2))[0]
    shown = Image.open(io.BytesIO(made[0].png()))
    assert [one["text"] for one in told] == [one.text for one in model.caption(shown, 2, language="en")[0]]
    ranks = facts(call(address, "rank_images", prompt=PROMPT, images=given))[0]
    losses = model.score([Image.open(io.BytesIO(one.png())) for one in made], PROMPT)[:, 0]
    assert [one["image"] for one in ranks] == np.argsort(losses).tolist()


def test_progress_is_reported(address: str) -> None:
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    asked = {"prompt": PROMPT, "n": 4, "seed": 1}
    result = asking(address, lambda one: one.call_tool("generate_image", asked, progress_callback=note))
    assert len(images(result)) == 4 and seen and all(0 <= one <= 1 for one in seen)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("generate_image", {"prompt": " "}, "the prompt is empty"),
        ("generate_image", {"prompt": "a", "width": 9999}, "out of range"),
        ("generate_image", {"prompt": "a", "model": "x"}, "no model 'x'"),
        ("edit_image", {"prompt": "a", "image": "../given.png"}, "outside of the folder"),
        ("edit_image", {"prompt": "a", "image": "/etc/passwd.png"}, "outside of the folder"),
        ("edit_image", {"prompt": "a", "image": "none.png"}, "image: none.png"),
        ("describe_image", {"image": "%%%"}, "not base64"),
        ("describe_image", {"image": "aGVsbG8="}, "not an image in a known format"),
    ],
)
def test_what_is_wrong_is_told_to_the_agent(
    address: str, name: str, arguments: dict[str, Any], words: str
) -> None:
    result = call(address, name, **arguments)
    assert result.is_error and words in result.content[0].text


def test_tools_say_what_they_do(address: str) -> None:
    listed = asking(address, lambda client: client.list_tools()).tools
    assert [one.name for one in listed] == ["generate_image", "edit_image", "describe_image", "rank_images"]
    assert all(
        one.description and "prompt" in (one.input_schema["properties"] | {"prompt": 0}) for one in listed
    )
    assert [one.annotations.read_only_hint for one in listed if one.annotations] == [False, False, True, True]


def test_other_hosts_other_sites_and_wrong_keys_are_refused(models: Models) -> None:
    key = "a-key-of-the-test-0123"
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    headers = {"Accept": "application/json, text/event-stream", "Authorization": f"Bearer {key}"}
    with running(tools(models, keys=[Key(key)]), listen("127.0.0.1", 0)) as address:
        for more, status in (
            ({}, 200),
            ({"Host": "elsewhere.example"}, 421),
            ({"Origin": "http://elsewhere.example"}, 403),
            ({"Authorization": "Bearer wrong-key-0123456789"}, 401),
        ):
            assert httpx.post(address, json=body, headers=headers | more).status_code == status


@pytest.mark.slow
def test_over_stdin_and_stdout(family: Path, editor: Path) -> None:
    arguments = ["-m", "cogview.cli", "mcp", str(family), str(editor)]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))
    made = from_pretrained(family).generate(PROMPT, seed=7)
    result = call(server, "generate_image", prompt=PROMPT, seed=7)
    assert images(result) == [one.png() for one in made] and "file" not in facts(result)[0]
