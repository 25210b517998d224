"""The attention report: pictures of every head's map, plots by depth, and one page that holds them all."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from cogview.analysis.attention import HeadFacts, Layout, Verdict, classify, observe
from cogview.errors import CogViewError
from cogview.pipeline import CogView, Picture
from cogview.sequences import Sequence as TokenSequence
from cogview.vocabulary import Vocabulary

DOTS = 12  # most attended tokens that are marked
ZOOM = 3


@dataclass(frozen=True)
class AttentionReport:
    """What was found in one sequence: a picture, its facts head by head, and the words looked for."""

    picture: Picture
    words: tuple[str, ...]
    facts: tuple[HeadFacts, ...]

    @property
    def verdicts(self) -> list[Verdict]:
        """Each head's positional bias."""
        return [classify(head) for head in self.facts]

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return self.facts[-1].layer + 1

    def of_layer(self, layer: int) -> list[HeadFacts]:
        """The heads of a layer."""
        return [head for head in self.facts if head.layer == layer]

    def best_heads(self, word: int, count: int = 4) -> list[HeadFacts]:
        """The heads that tell a word's places from others most: largest deviation of its map."""
        return sorted(self.facts, key=lambda head: -float(head.words[word].std()))[:count]


def lay_out(sequence: TokenSequence, vocabulary: Vocabulary, grid: tuple[int, int]) -> Layout:
    """Which places of a sequence are text, codes and separators."""
    ids = sequence.ids
    codes = ids < vocabulary.image_codes
    text = (ids >= vocabulary.texts.start) & (ids < vocabulary.texts.stop)
    places = (np.flatnonzero(mask) for mask in (~codes & ~text, text, codes))
    separators, words, picture = (tuple(map(int, found)) for found in places)
    return Layout(separators, words, picture, grid)


def find_word(model: CogView, pieces: Sequence[int], word: str) -> list[int]:
    """Numbers of the shortest run of pieces that spells a word; CogViewError where the text has it not."""
    wanted = _plain(word)
    runs = ((j - i, i, j) for i in range(len(pieces)) for j in range(i + 1, len(pieces) + 1))
    for _, i, j in sorted(runs):
        if wanted and wanted in _plain(model.text.decode(list(pieces[i:j]))):
            return list(range(i, j))
    raise CogViewError(f"the word {word!r} is not in the text")


def _plain(text: str) -> str:
    return "".join(text.lower().split())


def analyse(model: CogView, prompt: str, words: Sequence[str] = (), seed: int = 0) -> AttentionReport:
    """Draw a picture for a prompt and look at every head while its tokens are read.

    Args:
        words: parts of the prompt; default: its phrases between commas.

    Raises:
        CogViewError: a word that the prompt has not, or a prompt that cannot be drawn.
    """
    picture = model.generate(prompt, seed=seed)[0]
    pieces = model.encode(picture.caption)
    words = list(words) or [part for part in prompt.replace("，", ",").split(",") if part.strip()]
    places = [[1 + n for n in find_word(model, pieces, word)] for word in words]
    sequence = model.form.training(pieces, picture.codes)
    layout = lay_out(sequence, model.form.vocabulary, model.form.grid)
    ids, positions = tensors(sequence)
    facts = observe(model.family.transformer("base"), ids, positions, layout, places)
    return AttentionReport(picture, tuple(word.strip() for word in words), tuple(facts))


def tensors(sequence: TokenSequence) -> tuple[Tensor, Tensor]:
    """ids and positions (L,) int64 of a sequence."""
    return torch.from_numpy(sequence.ids), torch.from_numpy(sequence.positions)


# ------------------------------------------------------------------------------------------------ pictures


def heat(map: NDArray[np.float32], side: int) -> Image.Image:
    """A map as a square of ``side`` pixels, dark to bright."""
    low, high = float(map.min()), float(map.max())
    scaled = (map - low) / max(high - low, 1e-12)
    channels = np.stack([np.clip(3 * scaled - i, 0, 1) for i in range(3)], -1)  # black, red, yellow, white
    image = Image.fromarray((channels * 255).astype(np.uint8))
    return image.resize((side, side), Image.Resampling.NEAREST)


def layer_sheet(heads: Sequence[HeadFacts], side: int = 72) -> Image.Image:
    """The maps of a layer's heads beside each other."""
    sheet = Image.new("RGB", (len(heads) * (side + 2), side), "white")
    for number, head in enumerate(heads):
        sheet.paste(heat(head.map, side), (number * (side + 2), 0))
    return sheet


def dotted(picture: Image.Image, map: NDArray[np.float32], dots: int = DOTS) -> Image.Image:
    """The picture with red dots where the map is highest (figure 13)."""
    image = picture.resize((picture.width * ZOOM, picture.height * ZOOM), Image.Resampling.NEAREST)
    pen, (rows, columns) = ImageDraw.Draw(image), map.shape
    for place in np.argsort(-map.ravel(), kind="stable")[:dots]:
        row, column = divmod(int(place), columns)
        x, y = (column + 0.5) / columns * image.width, (row + 0.5) / rows * image.height
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill="red", outline="white")
    return image


def depth_plot(report: AttentionReport) -> Image.Image:
    """By layer: the effective number of tokens, and the shares of text and separators."""
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3))
    layers = range(report.layers)
    left.plot(layers, [np.mean([h.effective for h in report.of_layer(n)]) for n in layers], marker="o")
    left.set(title="effective number of tokens attended to", xlabel="layer", ylim=0)
    for name in ("text", "separators", "first_rows"):
        shares = [np.mean([getattr(h, name) for h in report.of_layer(n)]) for n in layers]
        right.plot(layers, shares, marker="o", label=name.replace("_", " "))
    right.set(title="share of the picture's attention", xlabel="layer", ylim=(0, 1))
    right.legend()
    return _image(figure)


def scale_plot(report: AttentionReport) -> Image.Image:
    """Scores by head in the layer with the largest, bars from least to largest (figure 14)."""
    pyplot = _pyplot()
    largest = max(report.facts, key=lambda h: max(abs(r.largest) for r in h.scores.values()))
    heads = report.of_layer(largest.layer)
    figure, axis = pyplot.subplots(figsize=(9, 3))
    for shift, name in zip(
        (-0.25, 0.0, 0.25), ("text to text", "image to text", "image to image"), strict=True
    ):
        ranges = [(h.head, h.scores[name]) for h in heads if name in h.scores]
        places, means = [n + shift for n, _ in ranges], [r.mean for _, r in ranges]
        spans = [[r.mean - r.least for _, r in ranges], [r.largest - r.mean for _, r in ranges]]
        axis.errorbar(places, means, yerr=spans, fmt="o", capsize=3, label=name)
    axis.set(title=f"scores before the softmax, layer {largest.layer}", xlabel="head")
    axis.legend(loc="upper right", ncols=3)
    return _image(figure)


def _pyplot() -> Any:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise CogViewError("plots need matplotlib; install it with: pip install 'cogview[eval]'") from None
    return pyplot


def _image(figure: Any) -> Image.Image:
    buffer = io.BytesIO()
    figure.tight_layout()
    figure.savefig(buffer, format="png", dpi=110)
    _pyplot().close(figure)
    return Image.open(buffer).convert("RGB")


# ---------------------------------------------------------------------------------------------------- page


def write(report: AttentionReport, directory: Path) -> Path:
    """Pictures as PNG files and ``index.html``, one page that needs no other file; returns the page."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        report.picture.save(directory / "picture.png")
        pictures = {f"layer-{n:02d}": layer_sheet(report.of_layer(n)) for n in range(report.layers)}
        pictures |= {"depth": depth_plot(report), "scales": scale_plot(report)}
        for number, word in enumerate(report.words):
            for rank, head in enumerate(report.best_heads(number)):
                name = f"word-{number}-{word}-{rank}"
                pictures[_safe(name)] = dotted(report.picture.image, head.words[number])
        for name, image in pictures.items():
            image.save(directory / f"{name}.png")
        page = directory / "index.html"
        page.write_text(_page(report, pictures), encoding="utf-8")
    except OSError as error:
        raise CogViewError(f"{directory}: cannot be written ({error.strerror or error})") from error
    return page


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)


def _page(report: AttentionReport, pictures: dict[str, Image.Image]) -> str:
    picture = report.picture
    parts = [
        "<!doctype html><meta charset=utf-8><title>attention</title>",
        "<style>body{font:15px system-ui;max-width:62em;margin:2em auto;padding:0 1em}img{max-width:100%}"
        "td,th{padding:.2em .8em;text-align:left}small{color:#666}</style>",
        f"<h1>{html.escape(picture.prompt)}</h1>",
        f"<p><small>{html.escape(picture.model)} {picture.model_hash[:16]}, seed {picture.seed}</small></p>",
        _tag(picture.image.resize((216, 216), Image.Resampling.NEAREST)),
        "<h2>By depth</h2>",
        _tag(pictures["depth"]),
        "<h2>Scales of the scores</h2>",
        _tag(pictures["scales"]),
    ]
    for number, word in enumerate(report.words):
        parts.append(f"<h2>Heads that tell “{html.escape(word)}”</h2>")
        for rank, head in enumerate(report.best_heads(number)):
            parts.append(
                f"<figure style='display:inline-block;margin:4px'>"
                f"{_tag(pictures[_safe(f'word-{number}-{word}-{rank}')])}"
                f"<figcaption>layer {head.layer}, head {head.head}</figcaption></figure>"
            )
    counts = Counter(verdict.bias for verdict in report.verdicts)
    parts.append("<h2>Heads by layer</h2><p>" + ", ".join(f"{n} {b}" for b, n in counts.most_common()))
    for layer in range(report.layers):
        names = [_named(classify(head)) for head in report.of_layer(layer)]
        parts.append(f"<h3>Layer {layer}</h3>{_tag(pictures[f'layer-{layer:02d}'])}")
        parts.append(f"<p><small>{' · '.join(names)}</small></p>")
    return "\n".join(parts)


def _named(verdict: Verdict) -> str:
    if verdict.offset is None:
        return f"{verdict.bias} {verdict.strength:.2f}"
    up, left = verdict.offset
    return f"{up} up, {left} left {verdict.strength:.2f}"


def _tag(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"<img src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"
