"""The browser's modules in Chromium: text tokens, noise, sampling and prompts are those of the package."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cogview.page
from cogview.checkpoints.bundle import PACKAGED
from cogview.checkpoints.prompt_help import PromptHelp
from cogview.data.images import RESAMPLE, square
from cogview.data.shards import Preprocessing
from cogview.generation.languages import allowed_tokens
from cogview.onnx import draws
from cogview.onnx.manifest import CaptionLayout, PromptLayout
from cogview.sequences.protocols import ImageFormat
from cogview.tokenizers.text import TextTokenizer
from cogview.types import MAX_SEED, SamplingParams
from tests.generation import tiny, tiny2

STATIC = Path(cogview.page.__file__).parent / "static"
WORDS = Path(__file__).parents[2] / "examples" / "pictogram" / "words.json"
LETTERS = (  # what texts are made of: both languages, and what normalisation changes
    (0x20, 0x7F), (0x80, 0x250), (0x300, 0x370), (0x1100, 0x1120), (0x2000, 0x2070), (0x3000, 0x3100),
    (0x4E00, 0x9FFF), (0xFB00, 0xFB10), (0xFF00, 0xFFF0), (0x1F600, 0x1F640), (0x20000, 0x20010),
)  # fmt: skip


@pytest.fixture(scope="module")
def page(browser: Any, serve: Callable[[Path], str]) -> Any:
    """A page from which the modules can be imported."""
    opened = browser.new_page()
    opened.goto(f"{serve(STATIC)}/package.json")
    return opened


def sentences(tokenizer: TextTokenizer, count: int) -> list[str]:
    """Texts of the tokenizer's own words, of any letters, and both."""
    chance = random.Random(0)
    words = [tokenizer.piece(number).replace("▁", " ") for number in range(tokenizer.pieces)]
    letters = [chr(code) for first, end in LETTERS for code in range(first, end)]
    made = ["", " ", "a  b", " a ", "▁", "\n", "　", "a\tb"]
    while len(made) < count:
        source = chance.choice([words, letters, words + letters[:2000]])
        made.append("".join(chance.choice(source) for _ in range(chance.randrange(1, 20))))
    return made


ENCODE = """async ([model, texts]) => {
    const { TextTokenizer } = await import("/text.js");
    const tokenizer = new TextTokenizer(Uint8Array.from(atob(model), (c) => c.charCodeAt(0)));
    const ids = texts.map((text) => tokenizer.encode(text));
    return [ids, ids.map((one) => tokenizer.decode(one))];
}"""


@pytest.mark.parametrize("name", ["pictogram", "tiny", "bpe"])
def test_text_tokens_are_sentencepieces(name: str, page: Any) -> None:
    tokenizer = {
        "pictogram": lambda: TextTokenizer.from_file(PACKAGED / "pictogram" / "text.model"),
        "tiny": tiny.text_tokenizer,
        "bpe": lambda: TextTokenizer.train(tiny.TEXTS, pieces=300, algorithm="bpe"),
    }[name]()
    texts = sentences(tokenizer, 10_000 if name == "pictogram" else 500)
    given = [base64.b64encode(tokenizer.model).decode(), texts]
    if name == "bpe":
        with pytest.raises(Exception, match="only unigram models"):
            page.evaluate(ENCODE, given)
        return
    ids, decoded = page.evaluate(ENCODE, given)
    expected = [tokenizer.encode(text) for text in texts]
    assert [text for text, a, b in zip(texts, ids, expected, strict=True) if a != b] == []
    assert decoded == [tokenizer.decode(one) for one in expected]


NOISE = """async (asked) => {
    const { Stream } = await import("/draws.js");
    return asked.map(([seed, index, step]) => [...new Stream(BigInt(seed), BigInt(index)).gumbel(step, 50)]);
}"""


def test_noise_is_the_same(page: Any) -> None:
    asked = [(7, 0, 0), (7, 3, 15), (0, 0, 143), (MAX_SEED, MAX_SEED, 1), (123456789012345678, 2, 30)]
    found = page.evaluate(NOISE, [[str(seed), str(index), step] for seed, index, step in asked])
    for (seed, index, step), own in zip(asked, found, strict=True):
        expected = draws.Streams([(seed, index)], step + 1).gumbel_of([0], [step], 50)[0]
        np.testing.assert_allclose(own, expected, rtol=2e-6, atol=2e-7)


SAMPLE = """async ([logits, noise, params, guidance, labels]) => {
    const { guide, sample } = await import("/draws.js");
    const [rows, drawn] = [logits, noise].map((all) => all.map((row) => Float32Array.from(row)));
    const guided = guide(rows[0], rows[1], guidance);
    return [rows.map((row, i) => sample(row, drawn[i], params, labels)), [...guided]];
}"""


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.7, top_k=5),
        SamplingParams(temperature=1.2, top_p=0.6),
        SamplingParams(top_k=20, top_p=0.9),
        SamplingParams(clusters=3, cluster_temperature=0.8),
        SamplingParams(clusters=4, top_k=12, temperature=1.3),
    ],
)
def test_rules_are_the_same(params: SamplingParams, page: Any) -> None:
    logits = np.random.default_rng(1).normal(scale=2, size=(60, 40)).astype(np.float32)
    noise = draws.Streams([(5, i) for i in range(60)], 1).gumbel_of(range(60), [0] * 60, 40)
    labels = np.random.default_rng(2).integers(0, 7, 40)
    given = [logits.tolist(), noise.tolist(), params.model_dump(), 2.5, labels.tolist()]
    given[2]["cluster_temperature"] = params.cluster_temperature  # type: ignore[index,call-overload]
    found, guided = page.evaluate(SAMPLE, given)
    assert found == draws.sample(logits, noise, params, labels).tolist()
    assert guided == draws.guide(logits[0], logits[1], 2.5).tolist()


PROMPT = """async ([model, manifest, prompts]) => {
    const [{ Model }, { TextTokenizer }] = [await import("/model.js"), await import("/text.js")];
    const text = new TextTokenizer(Uint8Array.from(atob(model), (c) => c.charCodeAt(0)));
    const made = Object.assign(new Model(), { manifest, text });
    return prompts.map((prompt) => {
        const { tokens, positions, biased } = made.prompt(made.caption(prompt, "pixel"));
        return [tokens.map(([id]) => id), tokens.map(([, at]) => at), positions, tokens.twoWay, biased];
    });
}"""


@pytest.mark.parametrize("kind", ["fixed", "index", "coglm"])
def test_prompts_are_the_same(kind: str, page: Any) -> None:
    form: ImageFormat = tiny2.form() if kind == "coglm" else tiny.form(kind)
    tokenizer, layout = tiny.text_tokenizer(), PromptLayout.of(form)
    family = {
        "styles": tiny.STYLES,
        "templates": {"en": "{caption}, {style} style", "zh": "{caption}，{style}风格"},
    }
    manifest = {"prompt": layout.model_dump(mode="json"), "family": family}
    given = [base64.b64encode(tokenizer.model).decode(), manifest, ["red", " 圆 "]]
    for caption, found in zip(
        ["red, pixel style", "圆，像素风格"], page.evaluate(PROMPT, given), strict=True
    ):
        prompt = form.image_prompt(tokenizer.encode(caption))
        places = (prompt.ids, prompt.positions, prompt.decode_positions)
        assert found == [*(x.tolist() for x in places), prompt.prefix, prompt.text_length]


FITTED = """async ([images, fitting]) => {
    const { fitImage } = await import("/images.js");
    return images.map(([width, height, rgb]) => {
        const data = new Uint8Array(4 * width * height).fill(255);
        for (let i = 0; i < width * height; i++) for (let c = 0; c < 3; c++) data[4 * i + c] = rgb[3 * i + c];
        return [...fitImage({ data, width, height }, fitting)].map((x) => Math.round(255 * x));
    });
}"""


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("resample", ["box", "bilinear"])
def test_images_are_fitted_as_pillow_does(crop: bool, resample: Any, page: Any) -> None:
    shapes = [(16, 16), (37, 52), (90, 23), (9, 7), (17, 16), (40, 80)]
    images = [np.random.default_rng(w).integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in shapes]
    given = [[image.shape[1], image.shape[0], image.ravel().tolist()] for image in images]
    found = page.evaluate(FITTED, [given, {"size": 16, "crop": crop, "resample": resample}])
    for image, pixels in zip(images, found, strict=True):
        shown = Image.fromarray(image)
        if crop:
            expected = square(shown, Preprocessing(size=16, resample=resample))
        else:
            expected = np.asarray(shown.resize((16, 16), RESAMPLE[resample]))
        apart = np.array(pixels) - expected.transpose(2, 0, 1).ravel()
        assert np.abs(apart).max() <= 1  # Pillow may begin with either side


HELP = """async ([words, prompts]) => {
    const { PromptHelp } = await import("/help.js"), help = new PromptHelp(words);
    return prompts.map((prompt) => help.unknown(prompt).map(({ word, near }) => [word, near]));
}"""


def test_prompt_help_is_the_same(page: Any) -> None:
    help, words = PromptHelp(WORDS), json.loads(WORDS.read_text())
    chance = random.Random(0)
    names = {language: [*words["known"][language], *words["near"][language]] for language in ("en", "zh")}
    prompts = ["a red poodle", "一只贵宾犬 and a kayak", "the wolves, berries and buses", ""]
    for _ in range(150):
        english = [chance.choice(names["en"]) for _ in range(chance.randrange(1, 4))]
        spelt = [_misspelt(word, chance) if chance.random() < 0.5 else word for word in english]
        prompts.append(chance.choice([" ", ", ", " ’ "]).join(spelt))
        prompts.append("".join(chance.choice(names["zh"]) for _ in range(chance.randrange(1, 4))) + "abc")
    found = page.evaluate(HELP, [words, prompts])
    expected = [[[one.word, list(one.near)] for one in help.unknown(prompt)] for prompt in prompts]
    assert [x for x in zip(prompts, found, expected, strict=True) if x[1] != x[2]] == []
    assert sum(map(bool, expected)) > 100


def _misspelt(word: str, chance: random.Random) -> str:
    """A word with a letter too many, too few, another, or two that changed places, or its plural."""
    at, letter = chance.randrange(len(word)), chance.choice("aeiostn")
    swapped = word[:at] + word[at + 1 : at + 2] + word[at : at + 1] + word[at + 2 :]
    longer = word[:at] + letter + word[at:]
    return chance.choice(
        [longer, word[:at] + word[at + 1 :], word[:at] + letter + word[at + 1 :], swapped, word + "s"]
    )


REPLACED = """async (asked) => {
    const { replaceWord } = await import("/help.js");
    return asked.map((words) => replaceWord(...words));
}"""


def test_a_word_is_replaced_with_its_article(page: Any) -> None:
    asked = [["A poodle", "poodle", "ape"], ["an ape (red)", "ape", "dog"], ["红色的犬", "犬", "狼"]]
    assert page.evaluate(REPLACED, asked) == ["An ape", "a dog (red)", "红色的狼"]


CAPTION = """async ([layout, codes, language]) => {
    const { Captions } = await import("/captions.js");
    const files = { heads: { text: { first: layout.text_first, end: layout.text_first + 400 } } };
    const captions = new Captions({ files }, layout, null), tokens = captions.prompt(codes, language);
    const allowed = [...captions.allowed(language)];
    return [tokens.map(([id]) => id), tokens.map(([, at]) => at), tokens.twoWay, allowed];
}"""


@pytest.mark.parametrize("kind", ["cogview", "coglm"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_caption_prompts_are_the_same(kind: str, language: str, page: Any) -> None:
    form: Any = tiny2.form() if kind == "coglm" else tiny.caption_form()
    text, codes = tiny.text_tokenizer(), np.arange(16) % 7
    layout = CaptionLayout.of(form, text).model_dump(mode="json")
    ids, positions, two_way, allowed = page.evaluate(CAPTION, [layout, codes.tolist(), language])
    expected = form.caption_prompt(codes, language)
    assert (ids, positions, two_way) == (
        expected.ids.tolist(),
        expected.positions.tolist(),
        expected.prefix,
    )
    pieces = allowed_tokens(text, form.vocabulary, language)
    wanted = np.zeros(400, dtype=bool)
    wanted[: len(pieces)] = pieces
    wanted[form.vocabulary.control(form.end) - form.vocabulary.texts.start] = True
    assert [bool(x) for x in allowed] == wanted.tolist()
