"""Any size: the stage that draws and the picture that comes out."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from cogview import from_pretrained
from cogview.errors import CogViewError
from cogview.pipelines.resizing import fitted
from cogview.serving.api_errors import ApiError
from cogview.serving.openai.fields import Quality
from cogview.serving.openai.names import is_openai_name, parse_aliases
from cogview.serving.openai.sizes import Target, parse_size, target_size
from tests.serving.conftest import Models, Site


@pytest.mark.parametrize(
    ("model", "size", "quality", "expected"),
    [
        ("tiny", "auto", "auto", Target(1)),  # it draws 16 pixels and enlarges to 32 and 64
        ("tiny", "32x32", "low", Target(2)),
        ("tiny", "40x40", "low", Target(1, (40, 40))),
        ("tiny", "40x40", "auto", Target(2, (40, 40))),
        ("tiny", "20x20", "max", Target(1, (20, 20))),
        ("tiny", "1024x512", "high", Target(2, (1024, 512))),
        ("tiny", "1024x512", "max", Target(4, (1024, 512))),
        ("tiny2", "auto", "auto", Target(3)),  # it draws 16 pixels, then always 48
        ("tiny2", "auto", "low", Target(1)),
        ("tiny2", "1024x1024", "high", Target(3, (1024, 1024))),
    ],
)
def test_the_stage_that_draws(
    models: Models, model: str, size: str, quality: Quality, expected: Target
) -> None:
    assert target_size(models.by_name[model], size, quality) == expected


@pytest.mark.parametrize(
    "size", ["x", "8x8", "4096x16", "3840x3840", "1024x300", "-16x16", "１６x16", "16x16 "]
)
def test_sizes_that_are_refused(size: str) -> None:
    with pytest.raises(ApiError) as error:
        parse_size(size)
    assert error.value.param == "size"


def test_art_keeps_its_shape_on_its_own_ground() -> None:
    image = Image.new("RGB", (16, 16), (250, 240, 230))
    image.paste((0, 0, 200), (4, 4, 12, 12))
    wide = np.asarray(fitted(image, (128, 64)))
    assert wide.shape == (64, 128, 3) and (wide[:, :30] == (250, 240, 230)).all()
    blue = (wide[..., 0] < 100).any(axis=0).nonzero()[0]
    assert abs((blue[-1] - blue[0] + 1) - 32) <= 2 and abs(blue.mean() - 63.5) < 1


def test_scenes_are_cut_around_their_centre() -> None:
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[:, None, None], (1, 64, 3))  # 64 rows, 0 to 252
    tall = np.asarray(fitted(Image.fromarray(ramp), (128, 64)))
    assert tall.shape == (64, 128, 3)
    assert abs(int(tall[0, 64, 0]) - 64) < 8 and abs(int(tall[-1, 64, 0]) - 188) < 8


def test_a_transparent_picture_at_a_size_of_another_shape(site: Site) -> None:
    asked = {
        "background": "transparent",
        "size": "64x32",
        "quality": "low",
        "output_format": "webp",
        "seed": 3,
    }
    told = site.draw("a red circle", **asked).json
    image = Image.open(io.BytesIO(base64.b64decode(told["data"][0]["b64_json"])))
    assert image.size == (64, 32) and told["size"] == "64x32"
    assert told["background"] == ("transparent" if image.mode == "RGBA" else "opaque")


def test_the_default_models_art_is_cut_out() -> None:
    from cogview.pipelines.background import without_background

    [apple] = from_pretrained("pictogram").generate("a red apple", seed=1, output_type="pil")
    found = without_background(apple)  # type: ignore[arg-type]
    assert found is not None
    alpha = np.asarray(found)[..., 3]
    assert 0.2 < (alpha == 0).mean() < 0.9 and alpha[36, 36] == 255


def test_names() -> None:
    assert is_openai_name("gpt-image-2.5-flare-2026-09-08") and is_openai_name("openai/dall-e-3")
    assert not is_openai_name("pictogram") and not is_openai_name("gpt-4o")
    assert parse_aliases(["a=x", "dall-e-3 = y"], ["x", "y"]) == {"a": "x", "dall-e-3": "y"}
    for wrong in ("a", "=x", "a=", "a=z", "y=x"):
        with pytest.raises(CogViewError, match="alias"):
            parse_aliases([wrong], ["x", "y"])
