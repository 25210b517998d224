"""Pictures enlarged by a tiny real family: shapes, faithfulness, what is told and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from cogview import CogView
from cogview.checkpoints import provenance
from cogview.errors import CogViewError
from cogview.generation.image_upscaling import MAX_CODES, back_projected
from tests.generation import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CogView:
    return CogView.from_pretrained(tiny.write(tmp_path_factory.mktemp("family"), upscaling=True))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("times", [2, 4])
@pytest.mark.parametrize("shape", [(16, 16), (1, 1), (9, 5), (21, 34)])
def test_the_result_is_exactly_so_many_times_as_large(
    model: CogView, shape: tuple[int, int], times: int
) -> None:
    if times * max(shape) > 64:
        shape = (shape[0] // 2, shape[1] // 2)
    made = model.upscale(picture(*shape), "a red circle", times=times, seed=3)[0]
    assert made.image.size == (shape[0] * times, shape[1] * times) and made.image.mode == "RGB"


def test_a_faithful_result_is_the_given_picture_when_shrunk(model: CogView) -> None:
    """By block means, nearly; a free one is far from it."""
    small = picture(24, 16)
    shrunk = {
        faithful: model.upscale(small, seed=1, faithful=faithful)[0].image.resize(
            (24, 16), Image.Resampling.BOX
        )
        for faithful in (True, False)
    }
    error = {
        key: np.abs(np.asarray(value).astype(int) - np.asarray(small)).mean() for key, value in shrunk.items()
    }
    assert 5 * error[True] < error[False]


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([2, 4]), st.integers(0, 9))
def test_back_projection_closes_in(height: int, width: int, times: int, seed: int) -> None:
    """More rounds, less difference; a picture that fits already stays."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(3, height, width, generator=generator)
    large = torch.rand(3, height * times, width * times, generator=generator)
    away = [float((F.avg_pool2d(back_projected(large, small, n), times) - small).norm()) for n in (0, 1, 4)]
    assert away[2] <= away[1] + 1e-5 and away[1] <= away[0] + 1e-5 and away[2] < 0.1 * away[0] + 1e-5
    fitting = F.interpolate(small[None], scale_factor=times)[0]
    assert torch.allclose(back_projected(fitting, small, 3), fitting, atol=1e-5)


def test_detail_leads_from_bicubic_to_all_that_was_drawn(model: CogView) -> None:
    small = picture(16, 24)
    found = [
        np.asarray(model.upscale(small, seed=1, detail=share)[0].image).astype(int) for share in (0, 0.5, 1)
    ]
    plain = F.interpolate(
        torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float(), None, 2, "bicubic"
    )
    expected = plain[0].permute(1, 2, 0).clamp(0, 255).numpy()
    assert np.abs(found[0] - expected).max() <= 1
    inside = (found[2] > 0) & (found[2] < 255)  # where nothing was clamped
    assert np.abs(found[1] - (found[0] + found[2]) / 2)[inside].max() <= 2


def test_a_picture_is_the_same_alone_and_among_others(model: CogView, tmp_path: Path) -> None:
    pictures = [picture(16, 16), picture(20, 17, 1), picture(30, 16, 2)]
    pictures[1].save(tmp_path / "x.png")
    together = model.upscale([pictures[0], tmp_path / "x.png", pictures[2]], ["a", "b", ""], seed=5, times=2)
    alone = model.upscale(str(tmp_path / "x.png"), "b", seed=5)[0]
    assert alone.png() == together[1].png()


def test_the_file_tells_what_made_it(model: CogView) -> None:
    made = model.upscale(picture(16, 16), " a red circle ", seed=9, top_k=5, times=2)[0]
    told = made.provenance
    assert (told.prompt, told.seed, told.index, told.model) == (" a red circle ", 9, 0, "tiny")
    assert told.settings["task"] == "upscale" and told.settings["times"] == 2 and told.settings["top_k"] == 5
    source = told.settings["source"]
    assert isinstance(source, dict) and source["width"] == 16 and len(str(source["sha256"])) == 64


def test_a_generated_picture_keeps_codes_caption_and_seed(model: CogView) -> None:
    """Its own codes are enlarged, not its pixels tokenised again."""
    drawn = model.generate("a red circle", n=2, seed=4, style="pixel")
    made = model.upscale(drawn)
    assert [(p.seed, p.index, p.caption) for p in made] == [(p.seed, p.index, p.caption) for p in drawn]
    assert made[0].codes.shape == (64,) and made[0].image.size == (32, 32)
    source = made[1].settings["source"]
    assert source["index"] == 1 and source["settings"]["style"] == "pixel"
    again = model.upscale(made[0], seed=1)[0]  # enlarged once more, from its pixels
    assert again.image.size == (64, 64)


def test_a_file_made_here_tells_its_prompt(model: CogView, tmp_path: Path) -> None:
    model.generate("a red circle", seed=4, style="pixel")[0].save(tmp_path / "x.png")
    made = model.upscale(tmp_path / "x.png", seed=1)[0]
    assert made.prompt == "a red circle" and made.caption == "a red circle, pixel style"
    assert provenance.read(made.png()) == made.provenance
    assert model.upscale(tmp_path / "x.png", "", seed=1)[0].caption == ""


def test_the_text_and_the_picture_are_read(model: CogView) -> None:
    """Codes change with the prompt and with the picture, not with the way it was stored."""
    first, other = picture(16, 16), picture(16, 16, 1)
    codes = [
        model.upscale(p, t, seed=1)[0].codes for p, t in ((first, "red"), (first, "蓝色"), (other, "red"))
    ]
    assert not np.array_equal(codes[0], codes[1]) and not np.array_equal(codes[0], codes[2])
    paletted = first.quantize(256)
    again = model.upscale([paletted, paletted.convert("RGB")], "red", seed=1)
    assert np.array_equal(again[0].codes, again[1].codes)


def test_size_is_the_side_it_is_read_at(model: CogView) -> None:
    made = model.upscale(picture(60, 40), seed=1, size=20)[0]
    assert made.image.size == (60, 40)  # 30 x 20, twice
    assert made.codes.shape == (2 * 8 * 2 * 5,)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        ("nothing.png", {}, r"nothing.png: missing file"),
        (picture(16, 16), {"times": 3}, "times is 3; this model upscales 2 or 4 times"),
        (picture(16, 16), {"times": 1}, "times is 1"),
        (picture(16, 16), {"size": 3}, "reads images of 8 to 65,536 px"),
        (picture(1000, 600), {}, rf"at most {MAX_CODES:,}; use size \d+ or less"),
        (picture(4000, 1), {}, "crop it"),
        (picture(16, 16), {"prompt": ["a", "b"]}, "1 images and 2 prompts"),
        (picture(16, 16), {"prompt": "red " * 99}, "tokens and the model reads 31"),
        (picture(16, 16), {"seed": -1}, "out of range"),
        (picture(16, 16), {"top_p": 2}, "top_p"),
        (picture(16, 16), {"batch_size": 0}, "batch_size"),
        (picture(16, 16), {"detail": 1.5}, "detail is 1.5; give a number from 0 to 1"),
        ([], {}, "there is no"),
    ],
)
def test_what_is_refused(model: CogView, image: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(CogViewError, match=message) as caught:
        model.upscale(image, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_suggested_size_can_be_read(model: CogView) -> None:
    wide = picture(1000, 600)
    with pytest.raises(CogViewError) as caught:
        model.super_resolution.upscaler.read(wide, 2)
    size = int(str(caught.value).split("size ")[1].split(" ")[0])
    model.super_resolution.upscaler.read(wide, 2, size)
    with pytest.raises(CogViewError):
        model.super_resolution.upscaler.read(wide, 2, size + 1)


def test_a_family_without_the_role(tmp_path: Path) -> None:
    with pytest.raises(CogViewError, match="cannot upscale images: it has base, no super_resolution"):
        CogView.from_pretrained(tiny.write(tmp_path)).upscale(picture(16, 16))
