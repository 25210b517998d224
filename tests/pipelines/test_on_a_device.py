"""Every task on a pretended CUDA device gives what it gives on the CPU, and no tensor is on the wrong one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogview.pipelines.model import Pipeline
from cogview.transformer.config import ThreeRegionConfig
from cogview.types import SamplingParams
from tests.generation import tiny, tiny2
from tests.pretended import Pretended, pretended_cuda


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("family"), upscaling=True, captioning=True)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny2.write(tmp_path_factory.mktemp("family"), enlarging=True)


def codes(images: Any) -> list[list[int]]:
    return [image.codes.tolist() for image in images]


def same(family: Path, run: Callable[[Pipeline], Any], **options: Any) -> None:
    """What ``run`` returns is the same on both devices; a drawn image is compared by its codes."""
    expected = run(Pipeline.from_pretrained(family, **options))
    with pretended_cuda():
        model = Pipeline.from_pretrained(family, device="cuda", **options)
        found = run(model)
        assert next(model.image_tokenizer.parameters()).is_cuda
    assert found == expected


def small() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))


@pytest.mark.parametrize("decoding", ["sequential", "jacobi"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_drawing(first: Path, second: Path, decoding: str, guidance: float) -> None:
    def draw(model: Pipeline) -> list[list[int]]:
        return codes(
            model.generate(["a red circle", "红"], n=2, seed=7, params=SamplingParams(guidance=guidance))
        )

    for family in (first, second):
        same(family, draw, decoding=decoding)


@pytest.mark.parametrize(
    "options",
    [
        {"deterministic": True},
        {"sparse": ThreeRegionConfig(window=4, times=2, pivots=36)},
        {"precision": "fp32"},
    ],
)
def test_drawing_in_other_ways(first: Path, options: dict[str, Any]) -> None:
    same(first, lambda model: codes(model.generate("a red circle", n=2, seed=7, best_of=3)), **options)


def test_editing(second: Path) -> None:
    picture = small()
    same(second, lambda model: codes(model.edit(picture, "蓝色的方块", boxes=[(0, 0, 8, 8)], seed=1, n=2)))
    same(second, lambda model: codes(model.vary(picture, "a red circle", seed=1)))


def test_enlarging(first: Path, second: Path) -> None:
    picture = small()
    same(first, lambda model: codes(model.upscale(picture, "a red circle", seed=1, faithful=True)))
    same(first, lambda model: codes(model.upscale(picture, "a red circle", seed=1, faithful=False)))
    same(second, lambda model: codes(model.upscale(picture, "a red circle", seed=1)))


def test_captions_and_scores(first: Path, second: Path) -> None:
    picture, texts = small(), ["a red circle", "蓝色的方块"]
    same(first, lambda model: [one.text for one in model.caption([picture], n=2, seed=1)[0]])
    for family in (first, second):
        same(family, lambda model: [one.text for one in model.caption([picture], beams=3)[0]])
        same(family, lambda model: np.round(model.score([picture], texts), 4).tolist())


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_nothing_waits_for_the_device_between_two_tokens(first: Path, guidance: float) -> None:
    """Decoded token by token; with windows the host waits once for each, to learn what was accepted."""
    waits: list[int] = []

    def draw(model: Pipeline, device: Pretended) -> None:
        waits.clear()
        model.generate(
            ["a red circle", "红"],
            n=2,
            seed=7,
            params=SamplingParams(guidance=guidance),
            progress=lambda *_: waits.append(device.waits),
        )

    with pretended_cuda() as device:
        draw(Pipeline.from_pretrained(first, device="cuda", decoding="sequential"), device)
        assert len(waits) == 16 and len(set(waits)) == 1
        draw(Pipeline.from_pretrained(first, device="cuda", decoding="jacobi"), device)
        assert set(np.diff(waits)) == {1}
