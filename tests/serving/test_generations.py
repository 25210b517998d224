"""Pictures over HTTP: the ones the library draws, whole and on their way, and every kind of wrong request."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cogview import CogView
from cogview.checkpoints import provenance
from cogview.cli.app import main
from cogview.tokenizers.vqvae import ImageTokenizer
from tests.serving.conftest import GENERATIONS, Models, Site, serving


def test_pictures_are_the_files_that_the_library_and_the_command_line_make(
    site: Site, family: Path, tmp_path: Path
) -> None:
    asked = {"n": 3, "seed": 7, "style": "pixel", "temperature": 0.8, "guidance": 2.0}
    files = site.draw("红色的圆", **asked).files
    made = CogView.from_pretrained(family).generate("红色的圆", **asked)  # type: ignore[arg-type]
    assert files == [picture.png() for picture in made]
    options = ("-n", "3", "--seed", "7", "--style", "pixel", "--temperature", "0.8", "--guidance", "2")
    assert main(["generate", "红色的圆", "--model", str(family), *options, "-o", str(tmp_path)]) == 0
    assert files == [path.read_bytes() for path in sorted(tmp_path.glob("*.png"))]
    told = provenance.read(files[1])
    assert told and (told.prompt, told.seed, told.index) == ("红色的圆", 7, 1)


def test_an_answer_has_openais_shape_and_what_makes_a_picture_again(site: Site) -> None:
    reply = site.draw("a red circle", n=2)
    told = reply.json
    assert reply.status == 200 and told["model"] == "tiny" and told["output_format"] == "png"
    assert told["created"] > 1.7e9 and len(told["data"]) == 2
    assert told["usage"]["output_tokens"] == 2 * 16
    assert told["usage"]["total_tokens"] == sum(told["usage"][k] for k in ("input_tokens", "output_tokens"))
    second = told["data"][1]
    assert second["size"] == "16x16" and second["picture"] == 1
    again = site.draw("a red circle", seed=second["seed"], first=1)
    assert again.files == reply.files[1:]


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_other_formats_tell_where_they_come_from(site: Site, kind: str) -> None:
    [data] = site.draw(seed=3, output_format=kind, output_compression=80).files
    image = Image.open(io.BytesIO(data))
    assert image.format == kind.upper() and image.size == (16, 16)
    assert json.loads(image.getexif()[0x010E])["seed"] == 3


def test_pictures_can_be_fetched_by_their_address(site: Site) -> None:
    entry = site.draw(seed=3, response_format="url").json["data"][0]
    assert "b64_json" not in entry and entry["url"].startswith(f"http://127.0.0.1:{site.port}/v1/pictures/")
    found = site.ask(entry["url"].partition(str(site.port))[2])
    assert found.headers["content-type"] == "image/png" and found.body == site.draw(seed=3).files[0]
    assert site.ask("/v1/pictures/another.png").error["code"] == "not_found"


def test_partial_pictures_are_what_is_drawn_so_far(site: Site, family: Path) -> None:
    """Each shows the first codes of the picture that comes out, and nothing where nothing is drawn."""
    asked = {"prompt": "a red circle", "n": 2, "seed": 7}
    events = list(site.events({**asked, "stream": True, "partial_images": 3}))
    made = CogView.from_pretrained(family).generate("a red circle", n=2, seed=7)
    decode = ImageTokenizer.from_directory(family / "image_tokenizer").decode
    for number, picture in enumerate(made):
        own = [(name.partition(".")[2], data) for name, data in events if data.get("index") == number]
        assert [name for name, _ in own] == ["partial_image"] * 3 + ["completed"]
        assert base64.b64decode(own[3][1]["b64_json"]) == picture.png()
        for step, (_, data) in enumerate(own[:3], 1):
            assert data["partial_image_index"] == step - 1
            shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["b64_json"]))))
            drawn = shown[2::4, 2::4, 3].ravel() == 255  # a cell of 4 x 4 pixels is a code
            known = int(drawn.sum())
            assert known >= 4 * step and drawn[:known].all()  # in raster order, perhaps several at a time
            codes = picture.codes.copy()
            for place in range(known, 16):
                codes[place] = codes[place - 4]  # below, what is above goes on
            with torch.no_grad():
                whole = decode(torch.from_numpy(codes.reshape(1, 16)))[0].clamp(0, 1) * 255
            assert np.array_equal(shown[..., :3], whole.round().byte().permute(1, 2, 0).numpy())
            assert (shown[..., 3] == np.kron(drawn.reshape(4, 4), np.full((4, 4), 255))).all()
    assert len(events) == 8


def test_a_stream_without_partial_pictures_has_finished_ones(site: Site) -> None:
    events = list(site.events({"prompt": "a red circle", "seed": 7, "stream": True}))
    assert [name for name, _ in events] == ["image_generation.completed"]
    assert all(data["type"] == name for name, data in events)


def test_the_best_of_several(site: Site, family: Path) -> None:
    files = site.draw("a red circle", n=2, best_of=3, seed=5).files
    made = CogView.from_pretrained(family).generate("a red circle", n=2, best_of=3, seed=5)
    assert files == [picture.png() for picture in made]


@pytest.mark.parametrize(("model", "size"), [("tiny", "32x32"), ("tiny2", "48x48"), ("tiny2", "16x16")])
def test_sizes_a_model_can_draw(site: Site, model: str, size: str) -> None:
    [data] = site.draw(model=model, size=size, seed=1).files
    assert Image.open(io.BytesIO(data)).size == tuple(int(side) for side in size.split("x"))


WRONG: list[tuple[dict[str, Any], str, str | None]] = [
    ({}, "'prompt' is missing", "prompt"),
    ({"prompt": "  "}, "the prompt is empty", "prompt"),
    ({"prompt": "a", "qualty": 1}, "unknown field 'qualty'", "qualty"),
    ({"prompt": "a", "stile": "x"}, "did you mean 'style'", "stile"),
    ({"prompt": "red " * 60}, "tokens and the model reads 31", "prompt"),
    ({"prompt": "x" * 33_000}, "32000 characters", "prompt"),
    ({"prompt": 7}, "valid string", "prompt"),
    ({"prompt": "a", "n": 0}, "greater than or equal to 1", "n"),
    ({"prompt": "a", "n": 11}, "less than or equal to 10", "n"),
    ({"prompt": "a", "n": "2"}, "valid integer", "n"),
    ({"prompt": "a", "n": True}, "valid integer", "n"),
    ({"prompt": "a", "n": 10, "best_of": 7}, "at most 64", None),
    ({"prompt": "a", "seed": -1}, "greater than or equal to 0", "seed"),
    ({"prompt": "a", "seed": 2**70}, "less than or equal to", "seed"),
    ({"prompt": "a", "size": "large"}, "give WIDTHxHEIGHT, or auto", "size"),
    ({"prompt": "a", "size": "4096x4096"}, "out of range", "size"),
    ({"prompt": "a", "size": "1024x64"}, "too narrow", "size"),
    ({"prompt": "a", "style": "pixle"}, "did you mean 'pixel'", "style"),
    ({"prompt": "红", "style": "english-only"}, "no words in the prompt's language", None),
    ({"prompt": "a", "temperature": 0}, "greater than 0", "temperature"),
    ({"prompt": "a", "temperature": float("nan")}, "", None),
    ({"prompt": "a", "top_p": 1.5}, "less than or equal to 1", "top_p"),
    ({"prompt": "a", "clusters": 4}, "no clusters", "clusters"),
    ({"prompt": "a", "partial_images": 2}, "needs stream", None),
    ({"prompt": "a", "stream": True, "partial_images": 4}, "less than or equal to 3", "partial_images"),
    ({"prompt": "a", "output_format": "gif"}, "'png', 'jpeg' or 'webp'", "output_format"),
    ({"prompt": "a", "model": "tinny"}, "did you mean 'tiny", "model"),
]


@pytest.mark.parametrize(("body", "words", "field"), WRONG, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_said(site: Site, body: dict[str, Any], words: str, field: str | None) -> None:
    reply = site.ask(GENERATIONS, body)
    assert reply.status == (404 if body.get("model") else 400)
    assert reply.error["type"] == "invalid_request_error" and words in reply.error["message"]
    if field is not None:
        assert reply.error["param"] == field


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "not_json"),
        (b"[]", "application/json", 400, "invalid_value"),
        (b"\xff\xfe", "application/json", 400, "not_json"),
        (b"prompt=a", "application/x-www-form-urlencoded", 415, "not_json"),
        (b'{"prompt": "a"}', "text/plain", 415, "not_json"),
        (b'{"prompt": "' + b"a" * 270_000 + b'"}', "application/json", 413, "too_large"),
        (b"[" * 60_000, "application/json", 400, "not_json"),
    ],
)
def test_bodies_that_are_no_request(site: Site, body: bytes, kind: str, status: int, code: str) -> None:
    reply = site.ask(GENERATIONS, body, Content_Type=kind)
    assert (reply.status, reply.error["code"]) == (status, code)


def test_a_model_that_cannot_is_told_so(plain: Models) -> None:
    with serving(plain) as site:
        assert "cannot score" in site.draw(best_of=2).error["message"]


def test_models_are_listed(site: Site) -> None:
    listed = site.ask("/v1/models").json
    assert listed["object"] == "list" and [one["id"] for one in listed["data"]] == ["tiny", "tiny2"]
    first, second = (one["cogview"] for one in listed["data"])
    assert first["abilities"] == ["generate", "upscale", "caption", "score"]
    assert second["abilities"] == ["generate", "edit", "caption", "score"]
    assert first["sizes"] == ["16x16", "32x32", "64x64"] and second["sizes"] == ["48x48", "16x16"]
    assert set(first["styles"]) == {"pixel", "english-only"} and first["text_limit"] == 31
    del first["aliases"]
    assert site.ask("/v1/models/tiny").json == listed["data"][0]
    assert site.ask("/v1/models/none").status == 404
