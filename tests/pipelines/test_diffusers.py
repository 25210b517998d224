"""Calls as diffusers' pipelines take them, against the library's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cogview import CogViewError, from_pretrained
from cogview.pipelines.base import as_output
from cogview.pipelines.diffusers import DiffusersPipeline
from tests.generation import tiny

PROMPTS = ["a red circle", "蓝色的方块"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> DiffusersPipeline:
    return DiffusersPipeline.from_pretrained(tiny.write(tmp_path_factory.mktemp("family")))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def same(found: Any, expected: Any) -> bool:
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(found, expected, strict=True))


def test_images_are_the_librarys(pipe: DiffusersPipeline) -> None:
    found = pipe(
        PROMPTS, guidance_scale=2.0, negative_prompt="pixel", num_images_per_prompt=2, generator=seeded(7)
    )
    made = pipe.model.generate(PROMPTS, 2, 7, guidance_scale=2.0, negative_prompt="pixel", output_type="pil")
    assert same(found.images, made)  # type: ignore[union-attr]


def test_a_generator_for_each_image(pipe: DiffusersPipeline) -> None:
    (found,) = pipe(PROMPTS, generator=[seeded(3), seeded(4)], return_dict=False)  # type: ignore[misc]
    made = [pipe.model.generate(text, seed=seed)[0].image for text, seed in zip(PROMPTS, (3, 4), strict=True)]
    assert same(found, made)
    with pytest.raises(CogViewError, match="1 generators for 2 images"):
        pipe(PROMPTS, generator=[seeded(3)])


@pytest.mark.parametrize(("kind", "own"), [("np", "np"), ("pt", "pt"), ("latent", "codes")])
def test_other_outputs(pipe: DiffusersPipeline, kind: Any, own: Any) -> None:
    found = pipe("a red circle", generator=seeded(7), output_type=kind).images  # type: ignore[union-attr]
    assert np.array_equal(found, as_output(pipe.model.generate("a red circle", seed=7), own))


def test_sizes(pipe: DiffusersPipeline) -> None:
    found = pipe("a red circle", height=32, width=64, generator=seeded(7)).images  # type: ignore[union-attr]
    assert found[0].size == (64, 32)


def test_steps_are_called_back_and_can_interrupt(pipe: DiffusersPipeline) -> None:
    seen: list[tuple[int, int]] = []

    def note(own: DiffusersPipeline, step: int, left: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, left))
        own.interrupt = step >= 4
        return kwargs

    found = pipe("a red circle", generator=seeded(7), callback_on_step_end=note)
    assert found.images == [] and [step >= 4 for step, _ in seen].count(True) == 1  # type: ignore[union-attr]
    assert all(step + left == sum(seen[0]) for step, left in seen)


def test_what_means_nothing_is_said(pipe: DiffusersPipeline) -> None:
    with pytest.warns(UserWarning, match="num_inference_steps has no meaning"):
        pipe("a red circle", num_inference_steps=20)
    with pytest.raises(CogViewError, match="output_type 'x'"):
        pipe("a red circle", output_type="x")  # type: ignore[arg-type]


def test_precisions(tmp_path: Path) -> None:
    family = tiny.write(tmp_path)
    pipe = DiffusersPipeline.from_pretrained(family, torch_dtype=torch.bfloat16)
    assert pipe.model.components.precision == "bf16"
    with pytest.raises(CogViewError, match=r"torch_dtype torch.float64"):
        DiffusersPipeline.from_pretrained(family, torch_dtype=torch.float64)
    assert from_pretrained(family).components.precision == "fp32"
