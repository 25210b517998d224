"""From a sentence to a large picture: a tiny imported CogView2 draws, enlarges and corrects."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cogview import CogView2, from_pretrained
from cogview.checkpoints.provenance import read
from cogview.cli.app import main
from cogview.errors import CogViewError


@pytest.fixture(scope="module")
def tiny(imported: Path) -> CogView2:
    found = from_pretrained(imported)
    assert isinstance(found, CogView2)
    return found


def test_a_picture_is_enlarged_and_the_same_in_any_batch(tiny: CogView2) -> None:
    drawn = tiny.generate("一只猫", 5, seed=3, batch_size=4)
    assert [picture.index for picture in drawn] == [0, 1, 2, 3, 4]  # nothing is dropped
    assert all(picture.image.size == (48, 48) and len(picture.codes) == 36 for picture in drawn)
    [alone] = tiny.generate("一只猫", 1, seed=3, first=4)
    assert np.array_equal(alone.codes, drawn[4].codes)
    assert alone.settings["super_resolution"] == "direct and iterative"


def test_large_pictures_take_one_forward_and_six(tiny: CogView2) -> None:
    forwards = {"direct": 0, "iterative": 0}
    assert tiny.super_resolution.iterative is not None
    hooks = []
    for name, model in (
        ("direct", tiny.super_resolution.direct.transformer),
        ("iterative", tiny.super_resolution.iterative.transformer),
    ):

        def count(*_: object, name: str = name) -> None:
            forwards[name] += 1

        hooks.append(model.register_forward_hook(count))
    tiny.generate("a cat", 3, seed=1)
    for hook in hooks:
        hook.remove()
    assert forwards == {"direct": 1, "iterative": 6}


def test_the_first_stage_alone_is_what_the_others_begin_with(tiny: CogView2) -> None:
    small = tiny.generate("a cat", 2, seed=1, first_stage_only=True)
    assert [picture.image.size for picture in small] == [(16, 16)] * 2
    large = tiny.generate("a cat", 2, seed=1)
    again = list(tiny.upscale(small))
    for one, other in zip(large, again, strict=True):
        assert np.array_equal(one.codes, other.codes)


def test_codes_that_no_turn_draws_are_the_direct_models(tiny: CogView2) -> None:
    from cogview.generation.hierarchical import direct_super_resolution
    from cogview.generation.local_parallel import RELEASED

    [small] = tiny.generate("a cat", 1, seed=5, first_stage_only=True)
    text = tiny.text_tokenizer.encode("a cat")
    before = direct_super_resolution(tiny.super_resolution.direct, [text], small.codes[None], pairs=[(5, 0)])[
        0
    ]
    [large] = tiny.upscale([small])
    kept = RELEASED.over((6, 6)).numpy() <= 0
    assert kept.sum() == 13
    assert np.array_equal(large.codes[kept], before[kept])


def test_styles_bring_their_own_settings(tiny: CogView2) -> None:
    [plain] = tiny.generate("猫", 1, seed=0, first_stage_only=True)
    [flat] = tiny.generate("猫", 1, seed=0, style="flat", first_stage_only=True)
    assert (plain.settings["temperature"], flat.settings["temperature"]) == (1.15, 1.1)
    assert flat.settings["clusters"] == 16 and flat.settings["emphasis"] == 1.4
    assert flat.caption == "猫 平面风格"
    [cooler] = tiny.generate("猫", 1, seed=0, style="flat", temperature=0.5, first_stage_only=True)
    assert cooler.settings["temperature"] == 0.5


def test_a_long_prompt_is_cut_only_when_asked(tiny: CogView2) -> None:
    longer = "one two three"
    assert len(tiny.text_tokenizer.encode(longer)) == 8
    with pytest.raises(CogViewError, match="super-resolution reads 6; shorten it"):
        tiny.generate(longer, 1, seed=0)
    assert len(tiny.generate(longer, 1, seed=0, first_stage_only=True)) == 1
    [cut] = tiny.generate("one two three four five six", 1, seed=0, truncate=True)
    assert "one two three four five six".startswith(cut.caption)
    assert 8 <= len(tiny.text_tokenizer.encode(cut.caption)) <= 11
    with pytest.raises(CogViewError, match="no order 'spiral'"):
        tiny.generate("a cat", order="spiral")


def test_the_command_draws_large_and_small(
    imported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["generate", "a cat", "--model", str(imported), "--seed", "2", "--json"]
    assert main([*common, "-o", str(tmp_path / "large"), "-n", "2"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [Path(p["path"]).is_file() for p in said["pictures"]] == [True, True]
    told = read(Path(said["pictures"][0]["path"]))
    assert told is not None and told.settings["super_resolution"] == "direct and iterative"
    from PIL import Image

    for name in ("--first-stage-only", "--no-upscale"):
        assert main([*common, "-o", str(tmp_path / name), name]) == 0
        path = json.loads(capsys.readouterr().out)["pictures"][0]["path"]
        assert Image.open(path).size == (16, 16)
    assert main([*common, "-o", str(tmp_path / "x"), "--style", "cubist"]) == 2
    assert "no style 'cubist'" in capsys.readouterr().err


def test_the_speed_of_a_model_of_several_steps(
    imported: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["eval", "speed", "--model", str(imported), "--batches", "2", "--repeats", "1", "--json"]
    assert main([*line, "--prompt", "a cat"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tokens"] == 36 and report["device"] == "cpu"  # those of the large picture


def test_a_model_of_one_step_has_no_such_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a cat", "--first-stage-only", "-o", str(tmp_path)]) == 2
    assert "generates in one step" in capsys.readouterr().err


def test_the_steps_that_enlarge_have_settings_of_their_own(tiny: CogView2, tmp_path: Path) -> None:
    """The release's; a style's over them: two of its styles draw from 5 clusters, far less widely."""
    plain, flat = tiny.super_resolution.direct_params("photo"), tiny.super_resolution.direct_params("flat")
    assert (plain.clusters, plain.cluster_temperature, plain.temperature) == (100, 0.89, 1.0)
    assert (
        (flat.clusters, flat.cluster_temperature)
        == (5, 0.4)
        == (
            tiny.super_resolution.direct_params("comics").clusters,
            tiny.super_resolution.direct_params("comics").cluster_temperature,
        )
    )
    assert [turn.top_k for turn in tiny.super_resolution.iterative_params()] == [40, 40, 40, 20, 20, 10]
    assert len(tiny.super_resolution.iterative_params("diagonal")) == 11
    small = tiny.generate("a cat", 1, seed=1, style="flat", first_stage_only=True)
    [drawn] = tiny.upscale(small)
    [other] = tiny.upscale([replace(small[0], settings={**small[0].settings, "style": None})])
    assert not np.array_equal(drawn.codes, other.codes)
    mixed = list(tiny.upscale([small[0], replace(small[0], settings={**small[0].settings, "style": None})]))
    assert [p.codes.tolist() for p in mixed] == [drawn.codes.tolist(), other.codes.tolist()]


def test_a_familys_own_settings_lie_over_the_releases(imported: Path, tmp_path: Path) -> None:
    shutil.copytree(imported, tmp_path / "own")
    facts = json.loads((tmp_path / "own" / "family.json").read_text())
    facts["iterative"] = {"temperature": 0.5}
    facts["direct"] = {"clusters": 7}
    (tmp_path / "own" / "family.json").write_text(json.dumps(facts))
    model = from_pretrained(tmp_path / "own")
    assert isinstance(model, CogView2)
    assert {turn.temperature for turn in model.super_resolution.iterative_params()} == {0.5}
    assert (
        model.super_resolution.direct_params().clusters == 7
        and model.super_resolution.direct_params("flat").clusters == 5
    )
