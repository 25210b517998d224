"""The attention report: images of every head's maps, plots by depth, and one page that holds them all."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cogview.analysis.attention import HeadFacts, Layout, Verdict, classify, explained, observe, regions
from cogview.analysis.reading import reading
from cogview.checkpoints.bundle import BASE
from cogview.errors import CogViewError
from cogview.files import write_file, write_image
from cogview.pipelines.base import GeneratedImage
from cogview.pipelines.model import Pipeline
from cogview.reports import html
from cogview.reports.html import Block, Section, Table, Text
from cogview.reports.plots import bars, lines
from cogview.vocabulary import Vocabulary

DOTS = 12  # most attended tokens that are marked
SIDE = 132  # pixels of a map
GAP, LINE = 6, 15  # between maps, and of the words below one
ACROSS = 8  # heads in a row of a sheet
TARGET = 216  # pixels that an image with dots has, at least
LARGEST = 400_000  # bytes of an image in the page
KINDS = ("text to text", "image to text", "image to image")


@dataclass(frozen=True)
class AttentionReport:
    """What was found in one sequence: an image, its facts head by head, and the words looked for.

    seen: who sees whom in it, in words.
    """

    picture: GeneratedImage
    words: tuple[str, ...]
    facts: tuple[HeadFacts, ...]
    seen: str = ""

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
        """The heads whose map of a word follows the image's things most: deviation between its regions."""
        return sorted(self.facts, key=lambda head: -self._segmenting(head, word))[:count]

    def _segmenting(self, head: HeadFacts, word: int) -> float:
        return float(head.words[word].std()) * math.sqrt(self.follows(head, word))

    def follows(self, head: HeadFacts, word: int) -> float:
        """The share of a head's map of a word that the image's regions explain (0 to 1)."""
        return explained(head.words[word], self.regions)

    @cached_property
    def regions(self) -> NDArray[np.int64]:
        """The image's places (rows * columns,) in three regions of like colours."""
        rows, columns = self.facts[0].map.shape
        small = self.picture.image.convert("RGB").resize((columns, rows), Image.Resampling.BOX)
        return regions(np.asarray(small, dtype=np.float32).reshape(-1, 3))


def lay_out(ids: NDArray[np.int64], vocabulary: Vocabulary, grid: tuple[int, int]) -> Layout:
    """Which places of a sequence of ids (L,) are text, codes and separators."""
    codes = ids < vocabulary.image_codes
    text = (ids >= vocabulary.texts.start) & (ids < vocabulary.texts.stop)
    places = (np.flatnonzero(mask) for mask in (~codes & ~text, text, codes))
    separators, words, picture = (tuple(map(int, found)) for found in places)
    return Layout(separators, words, picture, grid)


def find_word(model: Pipeline, pieces: Sequence[int], word: str) -> list[int]:
    """Numbers of the shortest run of tokens that spells a word; CogViewError where the text has it not."""
    wanted = _plain(word)
    runs = ((j - i, i, j) for i in range(len(pieces)) for j in range(i + 1, len(pieces) + 1))
    for _, i, j in sorted(runs):
        if wanted and wanted in _plain(model.text_tokenizer.decode(list(pieces[i:j]))):
            return list(range(i, j))
    raise CogViewError(f"the word {word!r} is not in the text")


def _plain(text: str) -> str:
    return "".join(text.lower().split())


def analyse(model: Pipeline, prompt: str, words: Sequence[str] = (), seed: int = 0) -> AttentionReport:
    """Draw an image for a prompt and look at every head while its tokens are read.

    Args:
        words: parts of the prompt; default: its phrases between commas.

    Raises:
        CogViewError: a word that the prompt has not, or a prompt that cannot be drawn.
    """
    form = model.text_to_image.format
    [picture] = model.generate(prompt, seed=seed, first_stage_only=model.bundle.config.two_stage)
    pieces = model.text_to_image.encode(picture.caption)
    words = list(words) or [part for part in prompt.replace("，", ",").split(",") if part.strip()]
    found = [find_word(model, pieces, word) for word in words]
    read = reading(model, BASE, picture)
    layout = lay_out(read.ids.numpy(), form.vocabulary, form.grid)
    places = [[layout.text[number] for number in numbers] for numbers in found]
    transformer = model.bundle.transformer(BASE)
    facts = observe(transformer, read.ids, read.positions, layout, places, read.visibility)
    return AttentionReport(picture, tuple(word.strip() for word in words), tuple(facts), read.told)


# ------------------------------------------------------------------------------------------------ images


def heat(map: NDArray[np.float32], side: int, root: bool = False) -> Image.Image:
    """A map as a square of ``side`` pixels, dark to bright; ``root``: by square roots, to show little too."""
    values = np.sqrt(map) if root else map
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / max(high - low, 1e-12)
    channels = np.stack([np.clip(3 * scaled - i, 0, 1) for i in range(3)], -1)  # black, red, yellow, white
    image = Image.fromarray((channels * 255).astype(np.uint8))
    kernel = Image.Resampling.NEAREST if len(map) <= side else Image.Resampling.BOX
    return image.resize((side, side), kernel)


def overlaid(picture: Image.Image, map: NDArray[np.float32], side: int) -> Image.Image:
    """A map over the image in grey, the most attended tokens marked (figures 12 and 13).

    The last row's codes are seen by few; they are shown as no brighter than the rest.
    """
    map = np.minimum(map, map[:-1].max()) if len(map) > 1 else map
    grey = picture.convert("L").convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    return marked(Image.blend(grey, heat(map, side), 0.6), map, 3)


def dotted(picture: Image.Image, map: NDArray[np.float32], dots: int = DOTS) -> Image.Image:
    """The image, enlarged if it is small, with red dots where the map is highest (figure 13)."""
    times = max(1, -(-TARGET // picture.width))
    image = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    return marked(image, map, max(4, image.width // 54), dots)


def marked(image: Image.Image, map: NDArray[np.float32], radius: int, dots: int = DOTS) -> Image.Image:
    """Red dots in the middle of the places where the map is highest."""
    pen, (rows, columns) = ImageDraw.Draw(image), map.shape
    for place in np.argsort(-map.ravel(), kind="stable")[:dots]:
        row, column = divmod(int(place), columns)
        x, y = (column + 0.5) / columns * image.width, (row + 0.5) / rows * image.height
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill="red", outline="white")
    return image


def layer_sheet(picture: Image.Image, heads: Sequence[HeadFacts], side: int = SIDE) -> Image.Image:
    """Of every head: where its attention goes, over the image; who attends to whom; its bias in words."""
    width, height = side + GAP, 2 * (side + GAP) + 2 * LINE
    across = min(ACROSS, len(heads))
    sheet = Image.new("RGB", (across * width + GAP, -(-len(heads) // across) * height + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, head in enumerate(heads):
        x, y = GAP + number % across * width, GAP + number // across * height
        sheet.paste(overlaid(picture, head.map, side), (x, y))
        sheet.paste(heat(head.matrix, side, root=True), (x, y + side + GAP))
        for line, text in enumerate((f"head {head.head}", told(classify(head)))):
            pen.text((x, y + 2 * (side + GAP) + line * LINE - 3), text, fill="black", font=font)
    return sheet


def told(verdict: Verdict) -> str:
    """A head's bias in words."""
    if verdict.offset is None:
        return f"{verdict.bias} {verdict.strength:.2f}"
    up, left = verdict.offset
    parts = [f"{up} up"] if up else []
    if left or not up:
        parts.append(f"{abs(left)} {'right' if left < 0 else 'left'}")
    return f"{', '.join(parts) if (up, left) != (0, 0) else 'itself'} {verdict.strength:.2f}"


def depth_plots(report: AttentionReport) -> list[Block]:
    """By layer: the effective number of tokens (mean, and least and most of a head), shares, biases."""
    layers = range(report.layers)
    own = [[head.effective for head in report.of_layer(n)] for n in layers]
    effective = {
        "mean of the heads": [(float(n), float(np.mean(own[n]))) for n in layers],
        "sparsest head": [(float(n), min(own[n])) for n in layers],
        "broadest head": [(float(n), max(own[n])) for n in layers],
    }
    shares = {
        name.replace("_", " "): [
            (float(n), float(np.mean([getattr(head, name) for head in report.of_layer(n)]))) for n in layers
        ]
        for name in ("text", "separators", "first_rows")
    }
    return [
        lines(effective, "layer", "tokens attended to"),
        lines(shares, "layer", "share of the attention"),
    ]


def scale_plot(report: AttentionReport) -> Block:
    """Scores by head in the layer with the largest, bars from least to largest (figure 14)."""
    heads = report.of_layer(largest_layer(report))
    kinds = [kind for kind in KINDS if all(kind in head.scores for head in heads)]
    return bars(
        [str(head.head) for head in heads],
        {kind: [head.scores[kind].mean for head in heads] for kind in kinds},
        "score before the softmax",
        {kind: [(head.scores[kind].least, head.scores[kind].largest) for head in heads] for kind in kinds},
    )


def largest_layer(report: AttentionReport) -> int:
    """The layer with the largest score."""
    sizes = {head.layer: 0.0 for head in report.facts}
    for head in report.facts:
        for span in head.scores.values():
            sizes[head.layer] = max(sizes[head.layer], abs(span.least), abs(span.largest))
    return max(sizes, key=lambda layer: sizes[layer])


# ---------------------------------------------------------------------------------------------------- page


def write(report: AttentionReport, directory: Path) -> Path:
    """Pictures as PNG files, ``heads.json``, and ``index.html``, one page that needs no other file.

    Returns the page; CogViewError where the place is not writable.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        report.picture.save(directory / "picture.png")
        sheets = {
            f"layer-{n:02d}": layer_sheet(report.picture.image, report.of_layer(n))
            for n in range(report.layers)
        }
        for number, word in enumerate(report.words):
            for rank, head in enumerate(report.best_heads(number)):
                sheets[_name(number, word, rank)] = dotted(report.picture.image, head.words[number])
        for name, image in sheets.items():
            write_image(directory / f"{name}.png", image)
        write_file(directory / "heads.json", json.dumps(facts(report), indent=1) + "\n")
        file = directory / "index.html"
        write_file(file, whole_page(report, sheets))
    except OSError as error:
        raise CogViewError(f"{directory}: cannot be written ({error.strerror or error})") from error
    return file


def facts(report: AttentionReport) -> dict[str, Any]:
    """The figures of every head and what they were made with, as JSON."""
    heads = [
        {
            "layer": head.layer,
            "head": head.head,
            **{name: value for name, value in vars(classify(head)).items() if value is not None},
            **{
                name: round(float(getattr(head, name)), 5)
                for name in ("effective", "text", "separators", "first_rows", "column")
            },
            "scores": {name: vars(span) for name, span in head.scores.items()},
        }
        for head in report.facts
    ]
    return {"provenance": report.picture.provenance.model_dump(mode="json"), "heads": heads}


def _name(number: int, word: str, rank: int) -> str:
    name = f"word-{number}-{word}-{rank}"
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)


def whole_page(report: AttentionReport, sheets: dict[str, Image.Image]) -> str:
    """The page, with its images inside."""
    picture = report.picture
    counts = Counter(verdict.bias for verdict in report.verdicts)
    found = ", ".join(f"{count} {bias}" for bias, count in counts.most_common())
    shown: list[Block] = [
        html.picture(picture.image, LARGEST, picture.caption, TARGET),
        Text(f"heads: {found}", note=False),
        Text(f"Who sees whom: {report.seen}."),
    ]
    sections = [Section("The picture", shown)]
    for number, word in enumerate(report.words):
        figures = [
            html.picture(
                sheets[_name(number, word, rank)],
                LARGEST,
                f"layer {head.layer}, head {head.head}: follows it {report.follows(head, number):.2f}",
                TARGET,
            )
            for rank, head in enumerate(report.best_heads(number))
        ]
        sections.append(Section(f"Heads that tell “{word}”", figures))
    by_depth = [[str(n), *_biases(report, n, list(counts))] for n in range(report.layers)]
    sections += [
        Section("By depth", [*depth_plots(report), Table(("layer", *counts), by_depth)]),
        Section(f"Scales of the scores, layer {largest_layer(report)}", [scale_plot(report)]),
    ]
    note = Text(
        "Above: where attention goes, the most attended marked. Below: from codes (down) to codes (across)."
    )
    for layer in range(report.layers):
        sheet = html.picture(sheets[f"layer-{layer:02d}"], LARGEST)
        sections.append(Section(f"Layer {layer}", [note, sheet] if layer == 0 else [sheet]))
    made = f"{picture.model} {picture.model_hash[:16]}, seed {picture.seed}, index {picture.index}"
    return html.page(f"Attention: {picture.prompt}", sections, made)


def _biases(report: AttentionReport, layer: int, names: Sequence[str]) -> list[str]:
    found = Counter(classify(head).bias for head in report.of_layer(layer))
    return [str(found[name]) if found[name] else "" for name in names]  # type: ignore[index]
