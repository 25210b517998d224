"""Both shipped families take the same calls: each answers, or says in one line what it cannot do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogview import CogView, CogView2, from_pretrained
from cogview.errors import CogViewError, UnsupportedTask
from cogview.types import SamplingParams

FAMILIES = ("pictogram", "pictogram-2")
FEW = {"seed": 3, "temperature": 0.7, "params": SamplingParams(top_k=5, guidance_scale=1.0)}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> CogView:
    return CogView.from_pretrained(request.param)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    pixels = np.full((72, 72, 3), 255, dtype=np.uint8)
    pixels[20:50, 20:50] = (200, 30, 30)
    return Image.fromarray(pixels)


def test_a_family_is_opened_by_any_of_its_doors() -> None:
    """At commit a1c147c ``CogView.from_pretrained("pictogram-2")`` failed."""
    assert type(CogView.from_pretrained("pictogram-2")) is type(from_pretrained("pictogram-2")) is CogView2
    assert type(CogView2.from_pretrained("pictogram-2")) is CogView2
    assert type(CogView.from_pretrained("pictogram")) is type(from_pretrained("pictogram")) is CogView


def test_generate_takes_the_same_arguments(model: CogView) -> None:
    """One by one or as ``params``; the single ones count more. ``guidance`` is the name in files."""
    small = {"seed": 3, "first_stage_only": model.bundle.config.two_stage}
    [one] = model.generate("a red apple", **{**FEW, **small})  # type: ignore[arg-type]
    named = {"temperature": 0.7, "top_k": 5, "guidance": 1.0}
    [other] = model.generate("a red apple", params=SamplingParams(**named), **small)  # type: ignore[arg-type]
    hot: dict[str, Any] = {
        "params": SamplingParams(**named | {"temperature": 9.0}),
        "temperature": 0.7,
        **small,
    }
    [third] = model.generate("a red apple", **hot)
    assert one.image.tobytes() == other.image.tobytes() == third.image.tobytes()
    assert one.settings["temperature"] == 0.7 and one.settings["top_k"] == 5


PUBLIC: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "generate": (("a red apple",), FEW),
    "edit": (("IMAGE", "a red apple"), {"boxes": (10, 10, 40, 40), "seed": 3, "first_stage_only": True}),
    "vary": (("IMAGE", "a red apple"), {"seed": 3, "first_stage_only": True}),
    "caption": (("IMAGE",), {"beams": 1, "language": "en"}),
    "score": (("IMAGE", ["a red apple", "红色的苹果"]), {}),
    "rerank": (("a red apple", ["IMAGE", "IMAGE"]), {}),
    "upscale": (("IMAGE", "a red apple"), {"seed": 3}),
}
CANNOT = {("pictogram", "edit"), ("pictogram", "vary")}


def call(model: CogView, name: str, image: Image.Image) -> Any:
    given, more = PUBLIC[name]

    def put(value: Any) -> Any:
        if isinstance(value, list):
            return [put(item) for item in value]
        return image if value == "IMAGE" else value

    found = getattr(model, name)(*map(put, given), **more)
    return list(found) if inspect.isgenerator(found) or hasattr(found, "__next__") else found


@pytest.mark.parametrize("name", PUBLIC)
def test_every_method_answers_or_says_it_cannot(name: str, model: CogView, image: Image.Image) -> None:
    if (model.bundle.config.name, name) in CANNOT:
        with pytest.raises(CogViewError, match=r"pictogram(-2)? "):
            call(model, name, image)
    else:
        assert len(call(model, name, image)) > 0


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda m, i: m.generate(7), "7 is not a valid prompt"),
        (lambda m, i: m.generate(None), "None is not a valid prompt"),
        (lambda m, i: m.generate([]), "there is no prompt"),
        (lambda m, i: m.generate(["a", 7]), "7 is not a text"),
        (lambda m, i: m.generate("a", n=0), "n is 0"),
        (lambda m, i: m.generate("a", n=1.5), "n is 1.5; give a whole number"),
        (lambda m, i: m.generate("a", seed="x"), "seed is 'x'"),
        (lambda m, i: m.generate("a", batch_size=0), "batch_size is 0"),
        (lambda m, i: m.generate("a", best_of=0), "best_of is 0"),
        (lambda m, i: m.generate("a", order="sideways"), "order"),
        (lambda m, i: m.generate("a", warmth=1.0), "warmth"),
        (lambda m, i: m.captioning.best_of([], 1), "there are 0 images"),
        (lambda m, i: m.captioning.best_of([], 0), "keep is 0"),
        (lambda m, i: m.score(i, []), "there is no text to score"),
        (lambda m, i: m.score([], "a"), "there is no image"),
        (lambda m, i: m.score(7, "a"), "7 is not a valid image"),
        (lambda m, i: m.score(i, "a", batch_size=0), "batch_size is 0"),
        (lambda m, i: m.caption(i, n=0), "n is 0"),
        (lambda m, i: m.caption(None), "None is not a valid image"),
        (lambda m, i: m.caption(i, n=10**12), "1,000,000,000,000 captions requested; at most 1,024"),
        (lambda m, i: m.caption(i, beams=10**12), "at most 1,024 at a time"),
        (lambda m, i: m.generate("a", 10**12), "1,000,000,000,000 images requested; at most 100,000"),
        (lambda m, i: m.generate(["a"] * 1000, 101), "101,000 images requested"),
        (lambda m, i: m.generate("a", best_of=10**12), "images requested; at most 100,000 at a time"),
        (lambda m, i: m.rerank("a", []), "there is no image"),
        (lambda m, i: m.upscale([]), "there is no image"),
    ],
)
def test_what_makes_no_sense_is_one_line_from_both(
    ask: Callable[[CogView, Image.Image], Any], said: str, model: CogView, image: Image.Image
) -> None:
    with pytest.raises(CogViewError) as caught:
        ask(model, image)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda m, i: m.edit(i, "a", boxes=(0, 0, 9, 9), batch_size=0), "batch_size is 0"),
        (lambda m, i: m.edit(i, "a", boxes=(0, 0, 9, 9), batch_size=-1), "batch_size is -1"),
        (lambda m, i: m.edit(i, "a", boxes=(0.5, 0, 9, 9)), "is not four whole numbers"),
        (lambda m, i: m.edit(i, "a", boxes=[(0, 0, 9)]), "is not four whole numbers"),
        (lambda m, i: m.edit(i, "a", boxes=[(0, 0, 9, "x")]), "is not four whole numbers"),
        (lambda m, i: m.edit(i, 7, boxes=(0, 0, 9, 9)), "7 is not a valid prompt"),
        (lambda m, i: m.edit(i, "a", boxes=(0, 0, 9, 9), n=10**12), "images requested; at most 100,000"),
        (lambda m, i: m.edit(i, "a", boxes=(0, 0, 9, 9), best_of=10**12), "at most 100,000 at a time"),
        (lambda m, i: m.vary(i, "a", n=10**12), "images requested; at most 100,000"),
        (lambda m, i: m.edit(i, "a", boxes=(0, 0, 9, 9), n=0), "n is 0"),
        (lambda m, i: m.vary(i, "a", batch_size=0), "batch_size is 0"),
        (lambda m, i: m.vary(i, "a", batch_size=-1), "batch_size is -1"),
        (lambda m, i: m.vary(i, "a", n=0), "n is 0"),
        (lambda m, i: m.generate("a", first_stage_only=True, order="diagonal"), "give one of them"),
    ],
)
def test_what_makes_no_sense_of_an_edit_is_one_line(
    ask: Callable[[CogView, Image.Image], Any], said: str, image: Image.Image
) -> None:
    with pytest.raises(CogViewError, match=said):
        ask(CogView.from_pretrained("pictogram-2"), image)


def test_a_box_of_whole_floats_is_a_box(image: Image.Image) -> None:
    model = CogView.from_pretrained("pictogram-2")
    assert isinstance(model, CogView2)
    ways: dict[str, Any] = {"seed": 1, "first_stage_only": True}
    one, two = (model.edit(image, "a", boxes=box, **ways)[0] for box in ((9, 9, 40, 40), (9.0, 9, 40, 40)))
    assert one.image.tobytes() == two.image.tobytes()


def test_settings_that_would_do_nothing_are_refused(image: Image.Image) -> None:
    with pytest.raises(CogViewError, match="lora_strength needs an adapter"):
        CogView.from_pretrained("pictogram", lora_strength=0.5)
    model = CogView.from_pretrained("pictogram")
    with pytest.raises(CogViewError, match="detail needs faithful=True"):
        model.upscale(image, faithful=False, detail=0.5)
    with pytest.raises(CogViewError, match="generates in one step"):
        model.generate("a", first_stage_only=True)


def test_a_task_that_a_family_lacks_names_those_that_have_it(image: Image.Image) -> None:
    model = CogView.from_pretrained("pictogram")
    assert not {"edit", "vary"} & model.capabilities
    with pytest.raises(UnsupportedTask) as caught:
        model.edit(image, "a", boxes=(0, 0, 9, 9))
    assert (caught.value.code, caught.value.field, caught.value.task) == ("unsupported", "model", "edit")
    assert "pictogram-2" in caught.value.families and "pictogram" not in caught.value.families


def test_a_wrong_argument_is_named() -> None:
    model = CogView.from_pretrained("pictogram")
    for given, field in (
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a", "seed": -1}, "seed"),
        ({"prompt": "a", "style": "no"}, "style"),
        ({"prompt": "a", "n": 0}, "n"),
        ({"prompt": "a", "top_p": 2.0}, "top_p"),
        ({"prompt": "a", "output_type": "gif"}, "output_type"),
        ({"prompt": "a", "negative_prompt": "b", "guidance_scale": 1.0}, "negative_prompt"),
    ):
        with pytest.raises(CogViewError) as caught:
            model.generate(**given)  # type: ignore[arg-type]
        assert caught.value.field == field


def test_output_types_are_the_same_image(model: CogView) -> None:
    few: dict[str, Any] = {**FEW, "first_stage_only": model.bundle.config.two_stage}
    [image] = model.generate("a red apple", **few)
    made = {
        kind: model.generate("a red apple", output_type=kind, **few) for kind in ("pil", "np", "pt", "codes")
    }
    expected = np.asarray(image.image, dtype=np.float32)[None] / 255
    assert np.array_equal(np.asarray(made["pil"][0]), np.asarray(image.image))
    assert np.array_equal(made["np"], expected)
    assert np.array_equal(made["pt"].permute(0, 2, 3, 1).numpy(), expected)
    assert np.array_equal(made["codes"], image.codes[None])


def test_guidance_moves_away_from_a_negative_prompt(model: CogView) -> None:
    few: dict[str, Any] = {
        "seed": 3,
        "guidance_scale": 3.0,
        "first_stage_only": model.bundle.config.two_stage,
    }
    plain, empty, other = (
        model.generate("a red apple", **few, **more)[0]
        for more in ({}, {"negative_prompt": ""}, {"negative_prompt": "a green tree"})
    )
    assert np.array_equal(plain.codes, empty.codes) and not np.array_equal(plain.codes, other.codes)
    assert other.settings["negative_prompt"] == "a green tree" and "negative_prompt" not in plain.settings


def test_a_callback_can_cancel(model: CogView) -> None:
    class Enough(Exception):
        pass

    made = []

    def stop(image: Any) -> None:
        made.append(image)
        raise Enough

    with pytest.raises(Enough):
        model.generate(
            "a red apple", 2, 3, batch_size=1, callback=stop, first_stage_only=model.bundle.config.two_stage
        )
    assert len(made) == 1


def test_images_from_elsewhere_are_upscaled_by_two_stages_too(image: Image.Image) -> None:
    [large] = CogView.from_pretrained("pictogram-2").upscale(image, "a red square", seed=3)
    assert large.image.size == (216, 216) and large.settings["super_resolution"] == "direct and iterative"
