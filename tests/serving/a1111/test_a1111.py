"""A1111's API: other programs' own requests replayed, and what its pictures are."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogview import CogView2, from_pretrained
from cogview.serving.guard import Rules
from cogview.serving.quotas import Key
from tests.serving.conftest import Gate, Models, Reply, Site, png

REQUESTS = sorted((Path(__file__).parent / "requests").glob("*.json"))
TXT2IMG, IMG2IMG = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
PROMPT = "a red circle"


def pictures(reply: Reply) -> list[Image.Image]:
    assert reply.status == 200, reply.json
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in reply.json["images"]]


def base64_png(image: Image.Image | bytes) -> str:
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        image = buffer.getvalue()
    return base64.b64encode(image).decode()


@pytest.mark.parametrize("file", REQUESTS, ids=lambda path: path.stem)
def test_requests_of_other_programs_are_answered(site: Site, file: Path) -> None:
    title = site.ask("/sdapi/v1/sd-models").json[0]["title"]
    for one in json.loads(file.read_text())["requests"]:
        body = json.loads(json.dumps(one.get("body")).replace("$title", title))
        reply = site.ask(one["path"], body, one["method"], **one.get("headers", {}))
        assert reply.status == 200, (one["path"], reply.body)
        told = reply.json
        if "pictures" in one:
            found = pictures(reply)
            assert [image.size for image in found] == [tuple(one["size"])] * one["pictures"]
            assert len(json.loads(told["info"])["all_seeds"]) == one["pictures"]
        elif one["path"].endswith("/progress"):
            assert told["progress"] == 0.0 and told["state"]["job_count"] == 0
        elif one["path"].endswith("/options") and one["method"] == "GET":
            assert told["sd_model_checkpoint"] == title
        elif one["method"] == "GET":
            assert isinstance(told, list) and all("name" in x or "model_name" in x for x in told)


def test_picture_i_is_that_of_the_seed_after(site: Site, family: Path) -> None:
    asked = {"prompt": PROMPT, "seed": 40, "batch_size": 2, "n_iter": 2, "width": 16, "height": 16}
    reply = site.ask(TXT2IMG, asked)
    model = from_pretrained(family)
    for number, image in enumerate(pictures(reply)):
        [made] = model.generate(PROMPT, seed=40 + number)
        assert np.array_equal(np.asarray(image), np.asarray(made.image))
    info = json.loads(reply.json["info"])
    assert info["all_seeds"] == [40, 41, 42, 43] and "Seed: 43" in info["infotexts"][3]


def test_cfg_scale_is_on_the_models_scale(site: Site) -> None:
    asked = {"prompt": PROMPT, "seed": 1, "width": 16, "height": 16}
    plain, seven, two = (
        site.ask(TXT2IMG, asked | more).json for more in ({}, {"cfg_scale": 7}, {"cfg_scale": 2})
    )
    assert plain["images"] == seven["images"] == two["images"]  # this family draws without guidance
    assert json.loads(two["info"])["cogview"]["settings"]["guidance"] == 1.0


def test_what_is_not_used_is_told(site: Site) -> None:
    more = {"restore_faces": True, "steps": 30, "tiling": True, "send_images": False, "subseed": 3}
    told = site.ask(TXT2IMG, {"prompt": PROMPT, "width": 16, "height": 16, **more}).json
    assert told["images"] == [] and told["parameters"]["restore_faces"] is True
    assert {"restore_faces", "steps", "tiling", "subseed"} <= set(
        json.loads(told["info"])["cogview"]["ignored"]
    )


def test_numbers_that_json_lacks_are_sent_back_as_null(site: Site) -> None:
    body = b'{"prompt": "a", "width": 16, "height": 16, "eta": NaN, "override_settings": {"x": Infinity}}'
    reply = site.ask(TXT2IMG, body, Content_Type="application/json")
    told = reply.json["parameters"]
    assert reply.status == 200 and told["eta"] is None and told["override_settings"] == {"x": None}


def test_masks_open_what_is_white(site: Site, editor: Path) -> None:
    picture = Image.open(io.BytesIO(png()))
    hole = np.zeros((16, 20), bool)
    hole[:, :8] = True
    asked = {"prompt": PROMPT, "seed": 5, "init_images": [base64_png(picture)], "mask_blur": 0}
    white = asked | {"mask": base64_png(Image.fromarray(hole))}
    inverted = asked | {"mask": base64_png(Image.fromarray(~hole)), "inpainting_mask_invert": 1}
    [made] = CogView2.from_pretrained(editor).edit(picture, PROMPT, hole, seed=5, feather=0)
    for body in (white, inverted):
        [found] = pictures(site.ask(IMG2IMG, body))
        assert np.array_equal(np.asarray(found), np.asarray(made.image))


def test_without_a_mask_denoising_strength_says_how_much(site: Site, editor: Path) -> None:
    image = "data:image/png;base64," + base64_png(png())
    asked = {"prompt": PROMPT, "seed": 5, "init_images": [image], "denoising_strength": 0.4}
    [found] = pictures(site.ask(IMG2IMG, asked))
    [made] = CogView2.from_pretrained(editor).vary(
        Image.open(io.BytesIO(png())), PROMPT, mask_ratio=0.4, seed=5
    )
    assert np.array_equal(np.asarray(found), np.asarray(made.image))
    [larger] = pictures(site.ask(IMG2IMG, asked | {"width": 64, "height": 32}))
    assert larger.size == (64, 32)


def test_tools(site: Site) -> None:
    drawn = site.draw(seed=3).files[0]
    told = site.ask("/sdapi/v1/png-info", {"image": base64_png(drawn)}).json
    assert told["items"]["seed"] == 3 and told["info"].startswith(PROMPT)
    assert site.ask("/sdapi/v1/interrogate", {"image": base64_png(drawn), "model": "clip"}).json["caption"]
    for name, times in (("cogview", 4), ("Lanczos", 1.5)):
        body = {"image": base64_png(drawn), "upscaling_resize": times, "upscaler_1": name}
        reply = site.ask("/sdapi/v1/extra-single-image", body)
        assert Image.open(io.BytesIO(base64.b64decode(reply.json["image"]))).size == (16 * times, 16 * times)


def test_progress_and_interruption(
    serve: Callable[..., Site], models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, gate = serve(), Gate(models.by_name["tiny"], monkeypatch)
    asked = {"prompt": PROMPT, "seed": 1, "width": 16, "height": 16, "batch_size": 4}
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(site.ask(TXT2IMG, asked)))
    thread.start()
    for step in range(1, 17):  # a step draws one code of a picture or more
        gate.wait(step)
        if site.ask("/sdapi/v1/progress").json["current_image"] is not None:
            break
        gate.allow(1)
    told = site.ask("/sdapi/v1/progress?skip_current_image=true").json
    assert 0.2 < told["progress"] < 1 and told["state"]["job_count"] == 1 and told["current_image"] is None
    site.ask("/sdapi/v1/interrupt", b"", "POST")
    thread.join(60)
    assert replies[0].status == 200 and replies[0].json["images"] == []
    gate.open()
    assert len(pictures(site.ask(TXT2IMG, asked))) == 4
    assert site.ask("/sdapi/v1/progress").json["progress"] == 0.0


def test_models_are_chosen_for_each_key(serve: Callable[..., Site]) -> None:
    keys = ["first-key-0123456789", "second-key-0123456789"]
    site = serve(rules=Rules(keys=[*map(Key, keys)]))
    headers = [{"Authorization": "Basic " + base64.b64encode(f"me:{key}".encode()).decode()} for key in keys]
    assert site.ask("/sdapi/v1/options").status == 401
    assert site.ask("/v1/models", **headers[0]).status == 401  # a password is for A1111's clients alone
    wrong = {"Authorization": "Basic " + base64.b64encode(b"me:wrong-key-0123456789").decode()}
    assert site.ask("/sdapi/v1/options", **wrong).status == 401
    site.ask("/sdapi/v1/options", {"sd_model_checkpoint": "tiny2"}, **headers[0])
    found = [site.ask("/sdapi/v1/options", **one).json["sd_model_checkpoint"] for one in headers]
    assert found[0].startswith("tiny2 [") and found[1].startswith("tiny [")
    override = {"override_settings": {"sd_model_checkpoint": found[0]}, "prompt": PROMPT, "width": 48}
    told = site.ask(TXT2IMG, override | {"height": 48}, **headers[1]).json
    assert json.loads(told["info"])["sd_model_name"] == "tiny2"


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (TXT2IMG, {"prompt": " "}, "the prompt is empty"),
        (TXT2IMG, {"prompt": PROMPT, "width": 9000}, "out of range"),
        (TXT2IMG, {"prompt": PROMPT, "batch_size": 50}, "less than or equal to 10"),
        (TXT2IMG, {"prompt": PROMPT, "seed": "x"}, "valid integer"),
        (TXT2IMG, {"prompt": PROMPT, "override_settings": {"sd_model_checkpoint": "x"}}, "no model 'x'"),
        ("/sdapi/v1/options", {"sd_model_checkpoint": "x"}, "no model 'x'"),
        (IMG2IMG, {"prompt": PROMPT}, "'init_images' is missing"),
        (IMG2IMG, {"prompt": PROMPT, "init_images": ["%"]}, "not base64"),
        (IMG2IMG, {"prompt": PROMPT, "init_images": ["aGVsbG8="]}, "not an image in a known format"),
        ("/sdapi/v1/extra-single-image", {"image": "", "upscaling_resize": 9}, "less than or equal to 8"),
        ("/sdapi/v1/nothing", None, "there is nothing"),
    ],
)
def test_what_is_wrong_is_said(site: Site, path: str, body: Any, words: str) -> None:
    reply = site.ask(path, body)
    assert reply.status in (400, 404) and words in reply.json["detail"]
