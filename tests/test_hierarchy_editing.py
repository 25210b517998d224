"""Editing and varying at full resolution: a tiny family that makes pictures three times as large."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogview import CogView2, from_pretrained
from cogview.checkpoints.provenance import read
from cogview.cli.app import main
from cogview.generation import hierarchical
from cogview.tokenizers.loading import decode_image, encode_image
from tests.generation import tiny2


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny2.write(tmp_path_factory.mktemp("tiny2"), enlarging=True)


@pytest.fixture(scope="module")
def model(family: Path) -> CogView2:
    found = from_pretrained(family)
    assert isinstance(found, CogView2)
    return found


def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_large_hole_is_filled_at_full_resolution(model: CogView2) -> None:
    """Inside, away from the seam, are the pixels of codes made by both models; outside, the original's."""
    image = photo(48, 48)
    [edited] = model.edit(image, "a red circle", boxes=(8, 8, 40, 44), seed=5, crop="whole", feather=1)
    [small] = model.edit(
        image, "a red circle", boxes=(8, 8, 40, 44), seed=5, crop="whole", feather=1, first_stage_only=True
    )
    mask = np.zeros((48, 48), bool)
    mask[8:44, 8:40] = True
    after, before = np.asarray(edited.image), np.asarray(image)
    assert (after[~mask] == before[~mask]).all() and (after[mask] != np.asarray(small.image)[mask]).any()
    assert edited.settings["super_resolution"] == "direct and iterative"
    assert "super_resolution" not in small.settings
    pieces = model.text_to_image.encode("a red circle")
    together: dict[str, Any] = {"pairs": [(5, 0)], "likelihoods": model.super_resolution.prior([small.codes])}
    drawn = hierarchical.direct_super_resolution(
        model.super_resolution.direct, [pieces], small.codes[None], **together
    )
    region = np.zeros((12, 12), bool)
    region[2:11, 2:10] = True  # codes of 4 pixels
    known = encode_image(model.image_tokenizer, image).reshape(12, 12)
    start = np.where(region, drawn.reshape(12, 12), known)
    assert model.super_resolution.iterative is not None
    codes = hierarchical.iterative_super_resolution(
        model.super_resolution.iterative,
        [pieces],
        start.reshape(1, -1),
        region=region.reshape(1, -1),
        **together,
    )
    assert (codes.reshape(12, 12)[~region] == known[~region]).all()
    expected = np.asarray(decode_image(model.image_tokenizer, codes[0], (12, 12)))
    assert np.array_equal(after[mask], expected[mask])


def test_what_is_no_larger_than_the_first_stage_is_not_enlarged(model: CogView2) -> None:
    [edited] = model.edit(photo(60, 40), "a red circle", boxes=(3, 3, 9, 9), seed=5)
    assert "super_resolution" not in edited.settings and edited.settings["box"] == [0, 0, 16, 16]


@pytest.mark.parametrize("size", [(48, 48), (50, 20), (100, 70)])
def test_parts_of_any_shape_go_back_to_their_place(model: CogView2, size: tuple[int, int]) -> None:
    image = photo(*size)
    results = model.edit(image, "a red circle", boxes="20%,20%,90%,90%", n=2, seed=5)
    mask = np.zeros(size[::-1], bool)
    mask[round(0.2 * size[1]) : round(0.9 * size[1]), round(0.2 * size[0]) : round(0.9 * size[0])] = True
    for result in results:
        after, before = np.asarray(result.image), np.asarray(image)
        assert (after[~mask] == before[~mask]).all() and (after[mask] != before[mask]).mean() > 0.5
    assert (np.asarray(results[0].image) != np.asarray(results[1].image)).any()
    [alone] = model.edit(image, "a red circle", boxes="20%,20%,90%,90%", n=1, seed=5)
    assert np.array_equal(np.asarray(alone.image), np.asarray(results[0].image))


def test_variations_are_as_sharp_as_drawings(model: CogView2) -> None:
    [drawn] = model.generate("a red circle", 1, seed=1)
    [varied] = model.vary(drawn, "a red circle", mask_ratio=0.5, seed=2)
    [small] = model.vary(drawn, "a red circle", mask_ratio=0.5, seed=2, first_stage_only=True)
    assert np.array_equal(varied.codes, small.codes)
    assert varied.image.size == small.image.size == (48, 48)
    [large] = model.upscale([small])
    assert np.array_equal(np.asarray(large.image), np.asarray(varied.image))
    assert varied.settings["super_resolution"] == "direct and iterative"


def test_the_command(family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(48, 48).save(tmp_path / "cat.png")
    words = ["edit", str(tmp_path / "cat.png"), "a red circle", "--box", "0,0,40,40", "--seed", "1"]
    for more in ([], ["--first-stage-only"]):
        assert main([*words, "--model", str(family), "-o", str(tmp_path / "out"), *more]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.split()]
    facts = [read(path) for path in paths]
    kinds = [fact.settings.get("super_resolution") for fact in facts if fact is not None]
    assert kinds == ["direct and iterative", None]


def test_progress_ends_with_the_last_step_and_never_falls(model: CogView2) -> None:
    """All that is drawn counts, small and large; it was full before super-resolution began."""
    small, large = model.text_to_image.format.codes, model.super_resolution.direct.format.codes
    told: list[tuple[int, int]] = []

    def note(done: int, total: int) -> None:
        told.append((done, total))

    def check(total: int) -> None:
        done = [done for done, _ in told]
        assert {found for _, found in told} == {total} and done == sorted(done) and done[-1] == total
        told.clear()

    model.generate("a cat", n=3, seed=1, batch_size=2, best_of=2, progress=note)
    check(3 * (2 * small + 2 * large))
    model.generate("a cat", n=3, seed=1, first_stage_only=True, progress=note)
    check(3 * small)
    list(model.upscale(model.generate("a cat", n=2, seed=1, first_stage_only=True), progress=note))
    check(2 * 2 * large)
    model.vary(photo(48, 48), "a cat", seed=1, n=2, progress=note)
    check(2 * (small + 2 * large))
    model.edit(photo(48, 48), "a cat", boxes=(4, 4, 40, 40), n=2, seed=1, progress=note)
    assert told[-1][0] == told[-1][1] == 2 * (small + 2 * large)
