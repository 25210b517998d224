"""Labels in files, read as others read them, and labels on pictures."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogview.checkpoints.provenance import PRODUCER, Label, Provenance, png_bytes, with_visible_label
from cogview.pipelines.base import GeneratedImage
from cogview.serving.labelling import Labelling

SPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "iptc": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "tc260": "http://www.tc260.org.cn/ns/AIGC/1.0/",
}
FIELDS = (  # GB 45438-2025, appendix E
    "Label",
    "ContentProducer",
    "ProduceID",
    "ReservedCode1",
    "ContentPropagator",
    "PropagateID",
    "ReservedCode2",
)
TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def picture(seed: int = 1, size: int = 64, **settings: Any) -> GeneratedImage:
    image = Image.new("RGB", (size, size), "white")
    codes = np.zeros(16, np.int64)
    return GeneratedImage(image, codes, "a <red> & 红", "a <red> & 红", seed, 0, settings, "tiny", "ab" * 32)


def described(packet: bytes) -> ET.Element:
    found = ET.fromstring(packet.decode().partition("?>")[2].rpartition("<?")[0])
    [description] = found.iter(f"{{{SPACES['rdf']}}}Description")
    return description


def entry(description: ET.Element, name: str) -> str:
    found = description.find(name, SPACES)
    assert found is not None and found.text
    return found.text


def xmp_of(data: bytes) -> bytes:
    found = Image.open(io.BytesIO(data)).info["xmp"]
    return found if isinstance(found, bytes) else found.encode()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_files_carry_both_labels(kind: str) -> None:
    data = Labelling(Label("某某公司 <91>")).file(picture(), kind, 90)
    description = described(xmp_of(data))
    told = json.loads(entry(description, "tc260:AIGC"))
    assert tuple(told) == FIELDS and told["Label"] == "1" and told["ContentProducer"] == "某某公司 <91>"
    assert entry(description, "iptc:DigitalSourceType") == TYPES + "trainedAlgorithmicMedia"
    if kind == "png":
        assert json.loads(Image.open(io.BytesIO(data)).text["AIGC"]) == told  # type: ignore[attr-defined]


def test_the_number_is_the_pictures_own_and_the_same_every_time() -> None:
    def number(made: GeneratedImage) -> str:
        return str(json.loads(Image.open(io.BytesIO(made.png())).text["AIGC"])["ProduceID"])  # type: ignore[attr-defined]

    assert number(picture(1)) == number(picture(1)) != number(picture(2)) and len(number(picture())) == 32


def test_pictures_that_were_given_are_composites() -> None:
    data = picture(task="edit").png()
    assert (
        entry(described(xmp_of(data)), "iptc:DigitalSourceType")
        == TYPES + "compositeWithTrainedAlgorithmicMedia"
    )


def test_the_producer_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = Provenance(software="cogview 9", prompt="", seed=0, model="m", model_hash="x")

    def producer() -> str:
        data = png_bytes(Image.new("RGB", (2, 2)), facts)
        return str(json.loads(Image.open(io.BytesIO(data)).text["AIGC"])["ContentProducer"])  # type: ignore[attr-defined]

    assert producer() == "cogview 9"
    monkeypatch.setenv(PRODUCER, "me")
    assert producer() == "me"


@pytest.mark.parametrize("size", [(128, 128), (512, 300), (1024, 1024)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_visible_label_is_high_enough_and_stays_in_its_corner(size: tuple[int, int], mode: str) -> None:
    image = Image.new(mode, size, "white")
    labelled = with_visible_label(image)
    assert labelled.mode == mode and labelled.size == size
    pixels = np.asarray(labelled.convert("L")).astype(int)
    rows, columns = (pixels < 200).nonzero()  # the dark plate
    assert rows.min() > size[1] * 0.75 and columns.min() > size[0] * 0.5
    plate = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    high = np.flatnonzero((plate > 200).any(axis=1))  # the light letters on it
    assert high[-1] - high[0] + 1 >= 0.05 * min(size)
    assert with_visible_label(Image.new(mode, (127, 500))).tobytes() == Image.new(mode, (127, 500)).tobytes()


def test_letters_are_those_of_a_font_in_outline() -> None:
    """Four separate characters, the last two square and about as dense as such characters are."""
    from cogview.checkpoints.provenance import _letters

    ink = np.asarray(_letters(60)) > 128
    gaps = np.flatnonzero(~ink.any(axis=0))
    runs = np.split(gaps, np.flatnonzero(np.diff(gaps) > 1) + 1)
    assert len([run for run in runs if len(run) >= 3]) == 3
    for square in (ink[:, -60:], ink[:, -128:-68]):
        assert 0.15 < square.mean() < 0.5
