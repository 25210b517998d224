"""What is asked with a picture: the library's own results, and uploads that are refused."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogview import CogView, CogView2
from cogview.checkpoints import provenance
from cogview.serving.sentences import SENTENCES
from cogview.serving.served import Models
from cogview.tokenizers.language_classes import is_chinese
from tests.serving.conftest import Site, png

EDITS, UPSCALES, CAPTIONS, SCORES = "/v1/images/edits", "/v1/images/upscales", "/v1/captions", "/v1/scores"


def noise(size: tuple[int, int] = (30, 20), seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_an_edit_is_the_librarys_and_leaves_the_rest(site: Site, editor: Path) -> None:
    picture, hole = noise(), np.zeros((20, 30), bool)
    hole[4:12, 5:15] = True
    fields = {"prompt": "a red circle", "n": 2, "seed": 5, "feather": 0, "temperature": "0.9"}
    reply = site.send(EDITS, fields, image=file(picture), mask=file(Image.fromarray(hole)))
    made = CogView2.from_pretrained(editor).edit(
        picture, "a red circle", mask=hole, n=2, seed=5, feather=0, temperature=0.9
    )
    assert reply.files == [one.png() for one in made] and reply.json["model"] == "tiny2"
    for data in reply.files:
        shown = np.asarray(Image.open(io.BytesIO(data)))
        assert np.array_equal(shown[~hole], np.asarray(picture)[~hole])
        assert (shown[hole] != np.asarray(picture)[hole]).any()


def test_masks_as_openai_has_them_are_open_where_they_are_transparent(site: Site) -> None:
    alpha = np.full((20, 30), 255, np.uint8)
    alpha[4:12, 5:15] = 0
    transparent = Image.new("RGBA", (30, 20), "white")
    transparent.putalpha(Image.fromarray(alpha))
    fields = {"prompt": "a red circle", "seed": 5}
    by_alpha = site.send(EDITS, fields, image=file(noise()), mask=file(transparent)).files
    by_box = site.send(EDITS, fields | {"box": "5,4,15,12"}, image=file(noise())).files
    grey = Image.fromarray(255 - alpha).convert("RGBA")  # opaque: white is open
    by_white = site.send(EDITS, fields, image=file(noise()), mask=file(grey)).files
    assert by_alpha == by_box == by_white


def test_variations(site: Site, editor: Path) -> None:
    reply = site.send("/v1/images/variations", {"share": 0.4, "seed": 5, "n": 2}, image=file(noise()))
    made = CogView2.from_pretrained(editor).vary(noise(), mask_ratio=0.4, seed=5, n=2)
    assert reply.files == [one.png() for one in made]


def test_a_picture_made_here_is_enlarged_by_its_own_words(site: Site, family: Path, tmp_path: Path) -> None:
    [drawn] = site.draw(seed=4, style="pixel").files
    (tmp_path / "a.png").write_bytes(drawn)
    [data] = site.send(UPSCALES, {"times": 2, "seed": 6}, image=drawn).files
    [made] = CogView.from_pretrained(family).upscale(tmp_path / "a.png", times=2, seed=6)
    assert data == made.png() and made.prompt == "a red circle"


def test_captions_and_scores_are_the_librarys(site: Site, family: Path) -> None:
    model, pictures = CogView.from_pretrained(family), [noise(seed=1), noise(seed=2)]
    fields = {"n": 2, "language": "en", "max_length": 6}
    told = site.send(CAPTIONS, fields, image=file(pictures[0])).json
    [found] = model.caption(pictures[0], 2, language="en", max_length=6)
    assert [one["text"] for one in told["data"][0]["captions"]] == [one.text for one in found]
    assert [one["score"] for one in told["data"][0]["captions"]] == [one.score for one in found]
    told = site.send(SCORES, {"prompt": "a red circle"}, image=file(pictures[1])).json
    [[loss]] = model.score(pictures[1], "a red circle").tolist()
    assert told["data"] == [{"index": 0, "scores": [{"prompt": "a red circle", "caption_loss": loss}]}]


def test_several_pictures_and_several_texts(site: Site) -> None:
    line = "b"
    parts = [("image[]", file(noise(seed=i)), True) for i in range(3)]
    parts += [("prompt[]", text.encode(), False) for text in ("a red circle", "蓝色的方块")]
    body = b""
    for name, data, is_file in parts:
        tail = '; filename="x.png"' if is_file else ""
        body += f'--{line}\r\nContent-Disposition: form-data; name="{name}"{tail}\r\n\r\n'.encode()
        body += data + b"\r\n"
    body += f"--{line}--\r\n".encode()
    reply = site.ask(SCORES, body, Content_Type=f"multipart/form-data; boundary={line}")
    table = [[one["caption_loss"] for one in entry["scores"]] for entry in reply.json["data"]]
    assert np.array(table).shape == (3, 2) and len({loss for row in table for loss in row}) == 6


def bomb(side: int = 20_000) -> bytes:
    """A PNG that says it is large, and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def moving() -> bytes:
    first, *more = (noise(seed=i) for i in range(3))
    return file(first, "WEBP", save_all=True, append_images=more)


UPLOADS = {
    "nothing": (b"", "not an image in a known format"),
    "text": (b"hello", "not an image in a known format"),
    "gif": (file(noise(), "GIF"), "send png, jpeg, webp"),
    "tiff": (file(noise(), "TIFF"), "send png, jpeg, webp"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "send png, jpeg, webp"),
    "cut": (file(noise((300, 300)))[:2000], "truncated"),
    "bomb": (bomb(), "too many pixels"),
    "large bomb": (bomb(6_000), "too many pixels"),
    "moving": (moving(), "animation"),
}


@pytest.mark.parametrize("name", UPLOADS)
@pytest.mark.parametrize("path", [EDITS, UPSCALES, CAPTIONS])
def test_uploads_that_are_refused(site: Site, path: str, name: str) -> None:
    data, words = UPLOADS[name]
    fields = {"prompt": "a red circle", "box": "0,0,5,5"} if path == EDITS else {}
    reply = site.send(path, fields, image=data)
    assert (reply.status, reply.error["code"]) == (400, "bad_image") and words in reply.error["message"]


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    ],
)
def test_pictures_of_many_kinds_are_read(site: Site, kind: str, mode: str) -> None:
    picture = noise().convert("L").convert(mode) if mode == "I;16" else noise().convert(mode)
    assert site.send(CAPTIONS, {"max_length": 2}, image=file(picture, kind)).status == 200


@pytest.mark.parametrize(
    ("path", "fields", "files", "words"),
    [
        (EDITS, {"prompt": "a red circle", "box": "0,0,900,9"}, ["image"], "is not inside the image"),
        (EDITS, {"prompt": " ", "box": "0,0,5,5"}, ["image"], "the prompt is empty"),
        (EDITS, {"prompt": "red " * 60, "box": "0,0,5,5"}, ["image"], "tokens and the model reads"),
        (EDITS, {"prompt": "a", "box": "0,0,5,5", "order": "random"}, ["image"], "'together' or"),
        (EDITS, {"prompt": "a", "box": "0,0,5,5", "mode": "x"}, ["image"], "unknown field 'mode'"),
        (EDITS, {"prompt": "a", "box": "0,0,5,5", "model": "tiny"}, ["image"], "cannot edit"),
        (EDITS, {"prompt": "a", "box": "0,0,5,5"}, [], "'image' is missing"),
        (EDITS, {"prompt": "a"}, ["image", "other"], "'other' is not a file field"),
        (EDITS, {"prompt": "a", "image": "text"}, [], "image has to be a file"),
        (UPSCALES, {"times": 3}, ["image"], "3"),
        (UPSCALES, {"times": 8}, ["image"], "less than or equal to 4"),
        (UPSCALES, {"model": "tiny2"}, ["image"], "cannot upscale"),
        (UPSCALES, {"detail": "nan"}, ["image"], "detail"),
        (CAPTIONS, {"language": "fr"}, ["image"], "'zh' or 'en'"),
        (CAPTIONS, {"n": 5, "beams": 2}, ["image"], "need at least 5 beams"),
        (CAPTIONS, {"beams": 2, "seed": 1}, ["image"], "cannot be combined"),
        (SCORES, {}, ["image"], "'prompt' is missing"),
        (SCORES, {"prompt": "red " * 60}, ["image"], "tokens"),
    ],
)
def test_forms_that_are_wrong(
    site: Site, path: str, fields: dict[str, Any], files: list[str], words: str
) -> None:
    reply = site.send(path, fields, **{name: png() for name in files})
    assert reply.status == 400 and words in reply.error["message"], reply.error
    assert "/tmp" not in reply.error["message"] and "upload" not in reply.error["message"]


def test_bodies_that_are_no_form(site: Site) -> None:
    assert site.ask(CAPTIONS, {"image": "x"}).status == 415
    broken = site.ask(CAPTIONS, b"--b\r\nnonsense", Content_Type="multipart/form-data; boundary=b")
    assert broken.status == 400 and broken.error["message"]
    without = site.ask(CAPTIONS, b"x", Content_Type="multipart/form-data")
    assert without.status == 400


def test_a_score_is_told_among_other_sentences(site: Site, family: Path) -> None:
    """The share of the fixed sentences in the same language whose loss the image lowers less."""
    prompts = ["a red circle", "红色的圆"]
    body = b"".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in [("compare", "true"), *(("prompt", prompt) for prompt in prompts)]
    )
    image = file(noise())
    body += b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + image
    reply = site.ask(SCORES, body + b"\r\n--x--\r\n", Content_Type="multipart/form-data; boundary=x").json
    model = CogView.from_pretrained(family)
    blanks = [Image.new("RGB", (8, 8), (shade,) * 3) for shade in (255, 128)]
    for found, language in zip(reply["data"][0]["scores"], ("en", "zh"), strict=True):
        short = [one for one in SENTENCES[language] if len(model.text_tokenizer.encode(one)) <= 30]
        losses, *blank = model.score([noise(), *blanks], [found["prompt"], *short])
        assert found["caption_loss"] == pytest.approx(losses[0], rel=1e-5) and found["others"] == len(short)
        above = losses - np.mean(blank, axis=0)
        assert found["percentile"] == pytest.approx(100 * (above[1:] > above[0]).mean(), abs=0.1)
        best = sorted(zip(above[1:], short, strict=True))[:3]
        assert [one["prompt"] for one in found["closest"]] == [prompt for _, prompt in best]


def test_the_sentences_are_sixty_in_both_languages() -> None:
    assert {language: len(set(texts)) for language, texts in SENTENCES.items()} == {"en": 60, "zh": 60}
    assert not any(is_chinese(text) for text in SENTENCES["en"])
    assert all(is_chinese(text) for text in SENTENCES["zh"])


def test_a_picture_is_cut_out_and_keeps_what_made_it(site: Site, family: Path) -> None:
    [made] = CogView.from_pretrained(family).generate("a red circle", seed=3)
    square = Image.new("RGB", (24, 24), "white")
    square.paste((200, 30, 40), (8, 8, 16, 16))
    data = provenance.png_bytes(square, made.provenance)
    [clear] = site.send("/v1/images/cutouts", {}, image=data).files
    alpha = np.asarray(Image.open(io.BytesIO(clear)))[..., 3]
    assert alpha[0, 0] == 0 and alpha[12, 12] == 255 and 40 <= (alpha > 127).sum() <= 90
    told = provenance.read(clear)
    assert told and told.seed == 3 and told.settings["background"] == "transparent"
    uneven = site.send("/v1/images/cutouts", {}, image=file(noise()))
    assert uneven.status == 400 and uneven.error["code"] == "no_even_ground"


def test_words_that_a_model_never_learnt_are_told(serve: Any, family: Path, tmp_path: Path) -> None:
    """Before anything is generated, and in the answer; a model without a table knows of none."""
    copy = shutil.copytree(family, tmp_path / "family")
    near = {"en": {"aardvark": ["otter"]}, "zh": {"土豚": ["otter"]}}
    table = {"version": 1, "things": {"otter": ["otter", "水獭"]}, "known": {"en": ["otter"], "zh": ["水獭"]}}
    (copy / "words.json").write_text(json.dumps(table | {"near": near}), "utf-8")
    site = serve(models=Models.load([copy]))
    expected = [{"word": "aardvark", "near": ["otter"]}]
    assert site.ask("/v1/prompts", {"prompt": "an aardvark"}).json["unknown"] == expected
    assert site.ask("/v1/prompts", {"prompt": "一只土豚"}).json["unknown"] == [
        {"word": "土豚", "near": ["水獭"]}
    ]
    assert site.draw("an aardvark").json["words"] == {"unknown": expected}
    assert "words" not in site.draw("an otter").json
    events = dict(site.events({"prompt": "an aardvark", "stream": True}))
    assert events["image_generation.completed"]["words"] == {"unknown": expected}
