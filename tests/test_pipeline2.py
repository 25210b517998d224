"""CogView2's pipeline on a tiny CogLM: editing, variations, captions, scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cogview import CogView2
from cogview.checkpoints.provenance import read
from cogview.errors import CogViewError
from cogview.pipelines.base import GeneratedImage
from cogview.transformer.lora import LoRAConfig, adapter_parameters, attach, save_adapter
from cogview.types import SamplingParams
from tests.generation import tiny, tiny2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CogView2:
    made = CogView2.from_pretrained(tiny2.write(tmp_path_factory.mktemp("tiny2")))
    assert isinstance(made, CogView2)
    return made


def photo(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8), mode)


@pytest.mark.parametrize(
    ("size", "box"), [((40, 30), (0, 0, 9, 9)), ((16, 16), (3, 2, 12, 16)), ((9, 60), (0, 20, 9, 33))]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_what_is_not_masked_stays(
    model: CogView2, size: tuple[int, int], box: tuple[int, ...], mode: str
) -> None:
    image = photo(*size, mode=mode)
    left, top, right, bottom = box
    mask = np.zeros(size[::-1], bool)
    mask[top:bottom, left:right] = True
    results = model.edit(image, "a red circle", boxes=(left, top, right, bottom), n=2, seed=5)
    before = np.asarray(image.convert("RGB") if mode == "L" else image)
    for result in results:
        after = np.asarray(result.image)
        assert (after[~mask] == before[~mask]).all() and (after[mask] != before[mask]).any()
    assert (np.asarray(results[0].image) != np.asarray(results[1].image)).any()


def test_the_same_facts_make_the_same_edit(model: CogView2, tmp_path: Path) -> None:
    photo().save(tmp_path / "photo.png")
    painted = np.zeros((30, 40), dtype=np.uint8)
    painted[5:20, 3:8], painted[25:, 30:] = 255, 255
    Image.fromarray(painted).save(tmp_path / "mask.png")
    options = {"seed": 5, "order": "one_by_one", "crop": "whole", "feather": 2}
    first = model.edit(tmp_path / "photo.png", "a red circle", mask=tmp_path / "mask.png", n=2, **options)
    again = model.edit(photo(), "a red circle", mask=painted > 0, n=1, **options)
    assert first[0].png() == again[0].png()
    facts = read(first[1].png())
    assert facts is not None and facts.prompt == "a red circle" and (facts.seed, facts.index) == (5, 1)
    assert facts.settings["task"] == "edit" and facts.settings["order"] == "one_by_one"
    assert facts.settings["clusters"] == 4 and facts.settings["emphasis"] == 1.4


def test_a_drawn_picture_can_be_edited_and_varied(model: CogView2) -> None:
    [drawn] = model.generate("a red circle", seed=1)
    [edited] = model.edit(drawn, "a blue square", boxes="25%,25%,75%,75%", seed=2)
    assert edited.image.size == drawn.image.size == (16, 16)
    varied = model.vary(drawn, "a red circle", mask_ratio=0.5, n=3, seed=2)
    assert len({tuple(picture.codes) for picture in varied}) == 3
    again = model.vary(drawn, "a red circle", mask_ratio=0.5, n=2, seed=2)
    assert varied[1].codes.tolist() == again[1].codes.tolist()
    kept = [float((picture.codes == drawn.codes).mean()) for picture in varied]
    assert all(0 < share < 1 for share in kept)
    assert model.vary(photo(50, 20), n=1, seed=1)[0].image.size == (50, 20)


def test_a_style_has_settings_of_its_own(model: CogView2) -> None:
    """Under those that are given, over the family's."""
    [styled] = model.generate("red", style="pixel", seed=1)
    assert styled.settings["temperature"] == 0.5 and styled.settings["clusters"] == 4
    assert model.generate("red", seed=1)[0].settings["temperature"] == 1
    [given] = model.generate("red", style="像素", temperature=0.7, seed=1)
    assert given.settings["temperature"] == 0.7
    edited = model.edit(styled, "red", boxes=(0, 0, 8, 8), style="pixel", seed=1)
    assert edited[0].settings["temperature"] == 0.5


def test_editing_has_settings_of_its_own(tmp_path: Path) -> None:
    """Under those that are given and the style's, over the family's; generating keeps its own."""
    directory = tiny2.write(tmp_path)
    told = json.loads((directory / "family.json").read_text("utf-8"))
    told["editing"] = {"temperature": 0.3, "emphasis": 1.0}
    (directory / "family.json").write_text(json.dumps(told), "utf-8")
    model = CogView2.from_pretrained(directory)
    assert isinstance(model, CogView2)
    drawn = model.generate("red", seed=1)[0]
    for given, style, expected in (
        ({}, None, (0.3, 1.0)),
        ({}, "pixel", (0.5, 1.0)),
        ({"temperature": None, "text_attention_bias": 2.0}, None, (0.3, 2.0)),
        ({"temperature": 0.7}, "pixel", (0.7, 1.0)),
    ):
        edited = model.edit(drawn, "red", boxes=(0, 0, 8, 8), style=style, seed=1, **given)[0]
        assert (edited.settings["temperature"], edited.settings["emphasis"]) == expected
    assert (drawn.settings["temperature"], drawn.settings["emphasis"]) == (1.0, 1.4)


def test_the_best_of_several_edits(model: CogView2) -> None:
    """The two of four that a ranking by hand puts first, as they are without it."""
    original = photo(16, 16)
    four = model.edit(original, "a red circle", boxes=(4, 4, 12, 12), n=4, seed=2)
    best = model.edit(original, "a red circle", boxes=(4, 4, 12, 12), n=2, seed=2, best_of=2)
    ranked = [found.number for found in model.rerank("a red circle", four)][:2]
    assert [picture.index for picture in best] == ranked
    assert all(np.array_equal(a.codes, four[k].codes) for a, k in zip(best, ranked, strict=True))
    assert best[0].settings["best_of"]["of"] == 4
    with pytest.raises(CogViewError, match="best_of is 0"):
        model.edit(original, "a red circle", boxes=(4, 4, 12, 12), best_of=0)


def test_captions_and_scores(model: CogView2) -> None:
    pictures = model.generate("a red circle", n=2, seed=1)
    [[english], [chinese]] = (model.caption(pictures[0], language=name)[0] for name in ("en", "zh"))
    assert english.pieces.tolist() != chinese.pieces.tolist()
    scores = model.score(pictures, ["a red circle", "红色的圆"])
    assert scores.shape == (2, 2)
    for i, picture in enumerate(pictures):
        for j, (text, language) in enumerate((("a red circle", "en"), ("红色的圆", "zh"))):
            assert scores[i, j] == pytest.approx(by_hand(model, picture, text, language), abs=1e-4)
    ranked = model.rerank("a red circle", pictures)
    assert scores[ranked[0].number, 0] == scores[:, 0].min()
    assert model.score(pictures, "a red circle", released=True).max() < 0


@torch.inference_mode()
def by_hand(model: CogView2, picture: GeneratedImage, text: str, language: str) -> float:
    """The mean over the pieces, token by token, of -log p among what is no code."""
    form: Any = model.text_to_image.format
    transformer, pieces = model._coglm.model, tiny.text_tokenizer().encode(text)
    prompt = form.caption_prompt(picture.codes, language)
    ids, positions, total = prompt.ids.tolist(), prompt.positions.tolist(), 0.0
    for number, piece in enumerate(pieces):
        seen = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        seen[:, :16] = True
        hidden = transformer(torch.tensor([ids]), torch.tensor([positions]), seen)
        logits = transformer.logits(hidden[0, -1])[tiny.CODES : form.vocabulary.size]
        total -= float(logits.log_softmax(-1)[piece])
        ids, positions = [*ids, piece + tiny.CODES], [*positions, number + 1]
    return total / len(pieces)


def test_wrong_requests_are_one_line(model: CogView2, tmp_path: Path) -> None:
    image = photo()
    for options, said in (
        ({"boxes": (0, 0, 41, 5)}, "is not inside the image of 40 x 30"),
        ({"mask": np.ones((40, 30))}, "has 30 x 40 pixels"),
        ({"mask": np.zeros((30, 40))}, "is empty"),
        ({"boxes": "0,0,100%,100%"}, "whole image"),
        ({}, "nothing is masked"),
        ({"boxes": "0,0,5,5", "n": 0}, "n is 0"),
        ({"boxes": "0,0,5,5", "seed": -1}, "seed"),
        ({"boxes": "0,0,5,5", "style": "pixl"}, "did you mean 'pixel'"),
        ({"boxes": "0,0,5,5", "params": SamplingParams(temperature=1), "temperature": 0}, "temperature"),
    ):
        with pytest.raises(CogViewError, match=said):
            model.edit(image, "a red circle", **options)  # type: ignore[arg-type]
    with pytest.raises(CogViewError, match="the model reads 22"):
        model.edit(image, "a red circle " * 30, boxes="0,0,5,5")
    with pytest.raises(CogViewError, match="prompt is empty"):
        model.edit(image, " ", boxes="0,0,5,5")
    with pytest.raises(CogViewError, match="share"):
        model.vary(image, mask_ratio=0)
    with pytest.raises(CogViewError, match="no language 'fr'"):
        model.caption(image, language="fr")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(CogViewError, match=r"text\.png"):
        model.edit(tmp_path / "text.png", "a red circle", boxes="0,0,5,5")


def test_a_family_that_only_draws_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CogViewError, match="only generates"):
        CogView2.from_pretrained(tiny.write(tmp_path))


def test_an_adapter_changes_a_coglm(tmp_path: Path) -> None:
    """With strength 0 it is the model itself; what it was stands in the provenance."""
    directory = tiny2.write(tmp_path)
    adapted, config = CogView2.from_pretrained(directory).bundle.transformer("base"), LoRAConfig(rank=2)
    attach(adapted, config)
    for _, parameter in adapter_parameters(adapted):
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    save_adapter(adapted, config, tmp_path / "adapter")
    plain = CogView2.from_pretrained(directory).generate("red", seed=1)[0]
    off, on = (
        CogView2.from_pretrained(directory, lora=tmp_path / "adapter", lora_strength=strength)
        for strength in (0.0, 1.0)
    )
    assert np.array_equal(plain.codes, off.generate("red", seed=1)[0].codes)
    [changed] = on.generate("red", seed=1)
    assert not np.array_equal(plain.codes, changed.codes)
    assert changed.settings["lora"]["name"] == "adapter" and "lora" not in plain.settings
