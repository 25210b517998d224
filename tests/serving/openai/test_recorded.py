"""Requests of other programs to OpenAI's API, replayed as they were recorded."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.serving.conftest import Site, png

REQUESTS = sorted((Path(__file__).parent / "requests").glob("*.json"))


@pytest.mark.parametrize("file", REQUESTS, ids=lambda path: path.stem)
def test_recorded_requests_are_answered(site: Site, file: Path) -> None:
    for one in json.loads(file.read_text())["requests"]:
        if "fields" in one:
            reply = site.send(one["path"], one["fields"], **{name: png() for name in one["files"]})
        else:
            reply = site.ask(one["path"], one["body"], one["method"], **one["headers"])
        assert reply.status == 200, reply.body
        images = [Image.open(io.BytesIO(base64.b64decode(x["b64_json"]))) for x in reply.json["data"]]
        assert [image.size for image in images] == [tuple(one["size"])] * one["pictures"]
