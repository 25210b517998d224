"""The pipeline on a tiny real family: what comes back, what is refused, and with which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cogview import CogView
from cogview import CogView as Exported
from cogview.checkpoints import provenance
from cogview.checkpoints.bundle import ModelBundle
from cogview.errors import CogViewError
from cogview.generation.languages import language
from cogview.pipelines.base import GeneratedImage, caption_for
from cogview.tokenizers.vqvae import ImageTokenizer
from cogview.types import SamplingParams
from tests.generation import tiny


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def model(family: Path) -> CogView:
    return CogView.from_pretrained(family)


@pytest.fixture
def damaged(family: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(family, tmp_path / "tiny"))


def same(a: GeneratedImage, b: GeneratedImage) -> bool:
    return np.array_equal(a.codes, b.codes) and a.image.tobytes() == b.image.tobytes()


def test_pictures_come_in_order_with_their_facts(model: CogView) -> None:
    pictures = model.generate(["a red circle", " 红色的圆 "], n=2, seed=7, top_k=9)
    assert [(p.prompt, p.index) for p in pictures] == [
        ("a red circle", 0),
        ("a red circle", 1),
        (" 红色的圆 ", 0),
        (" 红色的圆 ", 1),
    ]
    assert Exported is CogView and pictures[2].caption == "红色的圆"
    for picture in pictures:
        assert picture.image.size == (16, 16) and picture.image.mode == "RGB"
        assert picture.codes.shape == (16,) and picture.codes.max() < tiny.CODES
        assert picture.seed == 7 and picture.settings["top_k"] == 9
        assert picture.model == "tiny" and picture.model_hash == model.bundle.hash


def test_a_picture_is_what_its_codes_stand_for(model: CogView, family: Path) -> None:
    picture = model.generate("a red circle", seed=3)[0]
    tokenizer = ImageTokenizer.from_directory(family / "image_tokenizer")
    with torch.no_grad():
        expected = tokenizer.decode(torch.from_numpy(picture.codes)[None])[0].clamp(0, 1) * 255
    assert np.array_equal(np.asarray(picture.image), expected.round().byte().permute(1, 2, 0).numpy())


def test_the_file_tells_how_to_make_it_again(model: CogView, tmp_path: Path) -> None:
    """All that is needed is read back from the PNG; the picture is then drawn alone."""
    original = model.generate(["a blue square", "红色的圆"], n=3, seed=11, style="pixel", temperature=1.3)[5]
    original.save(tmp_path / "x.png")
    told = provenance.read(tmp_path / "x.png")
    assert told is not None and told.model_hash == model.model_hash
    settings: dict[str, Any] = dict(told.settings)
    del settings["precision"], settings["deterministic"], settings["decoding"]
    again = model.generate(told.prompt, 1, told.seed, first=told.index, **settings)[0]
    assert same(again, original)
    with Image.open(tmp_path / "x.png") as file:
        assert file.convert("RGB").tobytes() == original.image.tobytes()


def test_one_picture_does_not_depend_on_the_others(model: CogView) -> None:
    together = model.generate(["a red circle", "红色的圆"], n=5, seed=7, batch_size=4)
    alone = model.generate("红色的圆", n=5, seed=7, batch_size=1)
    assert all(same(a, b) for a, b in zip(together[5:], alone, strict=True))
    assert not same(alone[0], alone[1])
    assert not same(alone[0], model.generate("红色的圆", seed=8)[0])


@pytest.mark.parametrize(
    "options", [{"precision": "int8"}, {"precision": "bf16"}, {"precision": "fp16"}, {"deterministic": True}]
)
def test_other_ways_to_compute(family: Path, options: dict[str, Any]) -> None:
    model = CogView.from_pretrained(family, **options)
    pictures = model.generate("a red circle", n=5, seed=7)
    assert options.items() <= pictures[0].settings.items()
    assert same(pictures[4], model.generate("a red circle", seed=7, first=4)[0])


def test_a_new_seed_each_time(model: CogView) -> None:
    first, second = (model.generate("a red circle")[0] for _ in range(2))
    assert first.seed != second.seed
    assert same(first, model.generate("a red circle", seed=first.seed)[0])


def test_each_picture_is_handed_over_before_the_next_is_drawn(model: CogView) -> None:
    events: list[str | int] = []
    model.generate(
        "a red circle",
        n=3,
        batch_size=1,
        progress=lambda done, total: events.append(done),
        callback=lambda picture: events.append(f"picture {picture.index}"),
    )
    for i in range(3):
        last = events.index(f"picture {i}")
        own, events = [event for event in events[:last] if isinstance(event, int)], events[last + 1 :]
        assert own == sorted(set(own)) and 16 * i < own[0] and own[-1] == 16 * i + 16
    assert not events


def test_pictures_of_several_requests_can_be_drawn_together(model: CogView) -> None:
    """Other seeds, prompts and styles in one batch; each is the picture that it is alone."""
    asked = [("a red circle", 7, 2, None), ("红色的圆", 8, 0, "pixel"), ("a red circle", 9, 1, "pixel")]
    part = model.text_to_image
    requests = [
        request
        for prompt, seed, index, style in asked
        for request in part.requests(prompt, seed=seed, first=index, style=style)
    ]
    params = model.bundle.config.sampling("generate", SamplingParams(top_k=9))
    made = list(part.run(requests, params))
    for picture, (prompt, seed, index, style) in zip(made, asked, strict=True):
        [alone] = model.generate(prompt, seed=seed, first=index, style=style, top_k=9)
        assert same(picture, alone) and picture.png() == alone.png()


def test_guidance_changes_the_picture(model: CogView) -> None:
    plain, strong = (model.generate("a red circle", seed=7, guidance=g)[0] for g in (1.0, 4.0))
    assert not np.array_equal(plain.codes, strong.codes)


@pytest.mark.parametrize(
    ("text", "spoken"), [("一只猫", "zh"), ("a 猫", "zh"), ("a cat", "en"), ("cat，", "en"), ("🐱", "en")]
)
def test_the_language_of_a_prompt(text: str, spoken: str) -> None:
    assert language(text) == spoken


def test_a_style_is_part_of_the_caption(model: CogView) -> None:
    config = model.bundle.config
    assert caption_for(config, "a cat", "pixel") == "a cat, pixel style"
    assert caption_for(config, "一只猫", "pixel") == "一只猫，像素风格"
    assert caption_for(config, "a cat", "像素") == caption_for(config, "a cat", "Pixel")
    assert caption_for(config, "{style} {caption}", "pixel") == "{style} {caption}, pixel style"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": ["a cat", " \n"]}, "the prompt is empty"),
        ({"prompt": []}, "there is no prompt"),
        ({"prompt": "circle square " * 20}, r"has \d+ tokens and the model reads 31"),
        ({"prompt": "a", "style": "pixle"}, "no style 'pixle'; did you mean 'pixel'"),
        ({"prompt": "a", "style": "zzz"}, "there are pixel, english-only"),
        ({"prompt": "猫", "style": "english-only"}, r"no words in the prompt's language \(zh\)"),
        ({"prompt": "a", "n": 0}, "n is 0"),
        ({"prompt": "a", "seed": -1}, "the seed -1 is out of range"),
        ({"prompt": "a", "first": -1}, "first is -1"),
        ({"prompt": "a", "batch_size": 0}, "batch_size is 0"),
        ({"prompt": "a", "temperature": 0}, "sampling: temperature: .*greater than 0"),
        ({"prompt": "a", "top_p": 1.5}, "sampling: top_p"),
        ({"prompt": "a", "top_k": -3}, "sampling: top_k"),
        ({"prompt": "a\ud800"}, "not valid Unicode"),
    ],
)
def test_what_is_refused(model: CogView, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CogViewError, match=message) as caught:
        model.generate(**arguments)
    assert "\n" not in str(caught.value)


def test_the_limit_is_the_one_the_message_names(model: CogView) -> None:
    """As many tokens as fit are drawn, one more is refused."""
    text = "a"
    while len(model.text_tokenizer.encode(text + "b")) <= 31:
        text += "b"
    assert len(model.generate(text)) == 1
    with pytest.raises(CogViewError, match="has 32 tokens"):
        model.generate(text + "b")


def refuses(directory: Path, message: str) -> None:
    with pytest.raises(CogViewError, match=message) as caught:
        CogView.from_pretrained(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["base", "image_tokenizer"])
@pytest.mark.parametrize("how", ["cut", "text", "gone"])
def test_damaged_weights(damaged: Path, part: str, how: str) -> None:
    file = damaged / part / "model.safetensors"
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-100] if how == "cut" else b"not weights at all")
    refuses(damaged, part)


def test_weights_of_another_model(damaged: Path) -> None:
    tiny.transformer(hidden=16).save(damaged / "other")
    shutil.copy(damaged / "other" / "model.safetensors", damaged / "base")
    refuses(damaged, "base.*config.json says")


def test_a_vocabulary_that_is_not_the_tokenizers(damaged: Path) -> None:
    config = json.loads((damaged / "family.json").read_text())
    config["vocabulary"]["image_codes"] = config["roles"]["base"]["sequences"]["vocabulary"][
        "image_codes"
    ] = 32
    (damaged / "family.json").write_text(json.dumps(config))
    refuses(damaged, "64 image codes, family.json says 32")


def test_an_unknown_model_or_precision(family: Path) -> None:
    with pytest.raises(CogViewError, match="no model 'pictogramm'"):
        CogView.from_pretrained("pictogramm")
    with pytest.raises(CogViewError, match="unknown precision 'fp8'; use one of fp32, bf16, fp16, int8"):
        CogView.from_pretrained(family, precision="fp8")  # type: ignore[arg-type]


def test_a_role_that_does_not_draw(damaged: Path) -> None:
    config = json.loads((damaged / "family.json").read_text())
    config["roles"]["base"]["sequences"]["kind"] = "image_to_text"
    (damaged / "family.json").write_text(json.dumps(config))
    assert ModelBundle(damaged).role("base").sequences.kind == "image_to_text"
    refuses(damaged, "does not generate images")


# ------------------------------------------------------------------------------------------ captions, scores


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> CogView:
    """A family that describes pictures too."""
    return CogView.from_pretrained(tiny.write(tmp_path_factory.mktemp("speaker"), captioning=True))


def test_models_are_read_at_first_use(speaker: CogView, damaged: Path) -> None:
    """A family without a base describes, one without a caption model draws; what is missing is said."""
    fresh = CogView.from_pretrained(speaker.bundle.directory)
    assert "text_to_image" not in vars(fresh) and "captioning" not in vars(fresh)
    assert fresh.score(Image.new("RGB", (16, 16)), "a red circle").shape == (1, 1)
    assert "text_to_image" not in vars(fresh) and "captioner" in vars(fresh.captioning)
    shutil.rmtree(damaged)
    shutil.copytree(speaker.bundle.directory, damaged)
    config = json.loads((damaged / "family.json").read_text())
    del config["roles"]["base"]
    (damaged / "family.json").write_text(json.dumps(config))
    lonely = CogView.from_pretrained(damaged)
    assert len(lonely.caption(Image.new("RGB", (16, 16)))[0]) == 1
    with pytest.raises(CogViewError, match="the model tiny cannot generate images"):
        lonely.generate("a red circle")


def test_captions_of_generated_and_of_other_pictures(speaker: CogView, tmp_path: Path) -> None:
    """A generated picture's own codes are described; captions come sorted, by chance or by beams."""
    picture = speaker.generate("a red circle", seed=3)[0]
    codes = speaker.captioning.image_codes(picture)
    assert codes is picture.codes and len(speaker.captioning.image_codes(picture.image)) == 16
    Image.new("CMYK", (40, 90)).save(tmp_path / "other.jpg")
    found = speaker.caption([picture, tmp_path / "other.jpg"], 3, language="zh", max_length=6)
    assert [len(own) for own in found] == [3, 3]
    scores = [caption.score or 0 for caption in found[0]]
    assert scores == sorted(scores, reverse=True) and len({caption.text for caption in found[0]}) == 3
    drawn = speaker.caption([picture, tmp_path / "other.jpg"], 3, seed=5, max_length=6)
    alone = speaker.caption(tmp_path / "other.jpg", 3, seed=5, max_length=6, batch_size=1)
    assert [caption.text for caption in drawn[1]] == [caption.text for caption in alone[0]]


def test_the_best_of_some_are_kept_and_tell_why(speaker: CogView) -> None:
    """Best-of is drawing more, scoring, sorting; each picture kept is one that can be drawn alone."""
    settings: dict[str, Any] = {"seed": 7, "style": "pixel"}
    prompts = ["a red circle", "红色的圆"]
    candidates = speaker.generate(prompts, n=6, **settings)
    kept = speaker.generate(prompts, n=2, best_of=3, **settings)
    assert len(kept) == 4
    for number, prompt in enumerate(prompts):
        own = candidates[6 * number : 6 * number + 6]
        ranked = speaker.rerank(own[0].caption, own)
        for rank, picture in enumerate(kept[2 * number : 2 * number + 2]):
            assert same(picture, own[ranked[rank].number]) and picture.prompt == prompt
            told = picture.provenance.settings["best_of"]
            loss = pytest.approx(ranked[rank].score, abs=1e-4)
            assert told == {"of": 6, "rank": rank, "caption_loss": loss}
            assert same(picture, speaker.generate(prompt, first=picture.index, **settings)[0])


def test_scores_and_ranks(speaker: CogView) -> None:
    pictures = speaker.generate("a red circle", n=4, seed=1)
    texts = ["a", "a blue square, pixel style", "红色的圆"]
    table = speaker.score(pictures, texts)
    assert table.shape == (4, 3) and (table > 0).all()
    added = speaker.score(pictures, texts, released=True)
    lengths = [len(speaker.text_tokenizer.encode(text)) for text in texts]
    assert np.allclose(added, -table * lengths, rtol=0.05)  # padding rows count in the release
    order = [ranked.number for ranked in speaker.rerank(texts[1], pictures)]
    assert order == np.argsort(table[:, 1]).tolist()
    best = [ranked.score for ranked in speaker.rerank(texts[1], pictures, released=True)]
    assert best == sorted(best, reverse=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.caption([]), "there is no image"),
        (lambda m: m.caption("none.png"), "none.png: "),
        (lambda m: m.caption(Image.new("RGB", (9, 9)), 0), "n is 0"),
        (lambda m: m.caption(Image.new("RGB", (9, 9)), 3, beams=2), "3 captions need at least 3 beams"),
        (lambda m: m.caption(Image.new("RGB", (9, 9)), beams=2, seed=1), "cannot be combined"),
        (lambda m: m.caption(Image.new("RGB", (9, 9)), language="fr"), "no language 'fr'"),
        (
            lambda m: m.caption(Image.new("RGB", (9, 9)), max_length=99),
            "99 tokens; this model writes 1 to 30",
        ),
        (lambda m: m.score(Image.new("RGB", (9, 9)), []), "there is no text"),
        (lambda m: m.score(Image.new("RGB", (9, 9)), ["a", " "]), "the text ' ' is empty"),
        (lambda m: m.score(Image.new("RGB", (9, 9)), "circle " * 40), "tokens and the model reads 30"),
        (lambda m: m.generate("a", best_of=0), "best_of is 0"),
    ],
)
def test_what_a_speaker_refuses(speaker: CogView, call: Any, message: str) -> None:
    with pytest.raises(CogViewError, match=message) as caught:
        call(speaker)
    assert "\n" not in str(caught.value)


def test_a_model_that_cannot_describe_says_so(model: CogView) -> None:
    for call in (
        lambda: model.caption(Image.new("RGB", (16, 16))),
        lambda: model.score(Image.new("RGB", (16, 16)), "a"),
        lambda: model.generate("a", best_of=2),
    ):
        with pytest.raises(CogViewError, match="cannot caption images: it has base, no caption"):
            call()
