"""The attention report: images of every head's maps, plots by depth, and one HTML page with all of them."""

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

DOTS = 12  # number of most attended tokens to mark
SIDE = 132  # side of a map, in pixels
GAP, LINE = 6, 15  # gap between maps and height of a text line, in pixels
ACROSS = 8  # heads per row of a sheet
TARGET = 216  # minimum width of an image with dots, in pixels
MAX_IMAGE = 400_000  # maximum size of an image in the page, in bytes
KINDS = ("text to text", "image to text", "image to image")


@dataclass(frozen=True)
class AttentionReport:
    """The analysis of one sequence: the image, the statistics of every head, and the analysed words.

    pattern: a description of the attention pattern.
    """

    image: GeneratedImage
    words: tuple[str, ...]
    facts: tuple[HeadFacts, ...]
    pattern: str = ""

    @property
    def verdicts(self) -> list[Verdict]:
        """Each head's positional bias."""
        return [classify(head) for head in self.facts]

    @property
    def layers(self) -> int:
        """The model's number of layers."""
        return self.facts[-1].layer + 1

    def of_layer(self, layer: int) -> list[HeadFacts]:
        """The heads of a layer."""
        return [head for head in self.facts if head.layer == layer]

    def best_heads(self, word: int, count: int = 4) -> list[HeadFacts]:
        """The heads whose map of a word varies most between the regions of the image."""
        return sorted(self.facts, key=lambda head: -self._contrast(head, word))[:count]

    def _contrast(self, head: HeadFacts, word: int) -> float:
        return float(head.words[word].std()) * math.sqrt(self.follows(head, word))

    def follows(self, head: HeadFacts, word: int) -> float:
        """The share of a head's map of a word that the image's regions explain (0 to 1)."""
        return explained(head.words[word], self.regions)

    @cached_property
    def regions(self) -> NDArray[np.int64]:
        """The image's positions (rows * columns,) clustered into three regions by colour."""
        rows, columns = self.facts[0].map.shape
        small = self.image.image.convert("RGB").resize((columns, rows), Image.Resampling.BOX)
        return regions(np.asarray(small, dtype=np.float32).reshape(-1, 3))


def lay_out(ids: NDArray[np.int64], vocabulary: Vocabulary, grid: tuple[int, int]) -> Layout:
    """The positions of text, codes and separators in a sequence of ids (L,)."""
    codes = ids < vocabulary.image_codes
    text = (ids >= vocabulary.texts.start) & (ids < vocabulary.texts.stop)
    masks = (np.flatnonzero(mask) for mask in (~codes & ~text, text, codes))
    of_separators, of_text, of_codes = (tuple(map(int, positions)) for positions in masks)
    return Layout(of_separators, of_text, of_codes, grid)


def find_word(model: Pipeline, text_tokens: Sequence[int], word: str) -> list[int]:
    """Indices of the shortest run of tokens that contains a word; CogViewError if there is none."""
    target, count = _plain(word), len(text_tokens)
    runs = ((j - i, i, j) for i in range(count) for j in range(i + 1, count + 1))
    for _, i, j in sorted(runs):
        if target and target in _plain(model.text_tokenizer.decode(list(text_tokens[i:j]))):
            return list(range(i, j))
    raise CogViewError(f"the word {word!r} is not in the text")


def _plain(text: str) -> str:
    return "".join(text.lower().split())


def analyse(model: Pipeline, prompt: str, words: Sequence[str] = (), seed: int = 0) -> AttentionReport:
    """Generate an image for a prompt and analyse every head on its sequence.

    Args:
        words: parts of the prompt; default: its phrases between commas.

    Raises:
        CogViewError: a word is not in the prompt, or no image can be generated for it.
    """
    form = model.text_to_image.format
    [image] = model.generate(prompt, seed=seed, first_stage_only=model.bundle.config.two_stage)
    text_tokens = model.text_to_image.encode(image.caption)
    words = list(words) or [part for part in prompt.replace("，", ",").split(",") if part.strip()]
    indices = [find_word(model, text_tokens, word) for word in words]
    read = reading(model, BASE, image)
    layout = lay_out(read.ids.numpy(), form.vocabulary, form.grid)
    positions = [[layout.text[index] for index in of_word] for of_word in indices]
    transformer = model.bundle.transformer(BASE)
    facts = observe(transformer, read.ids, read.positions, layout, positions, read.visibility)
    return AttentionReport(image, tuple(word.strip() for word in words), tuple(facts), read.description)


# ------------------------------------------------------------------------------------------------ images


def heat(map: NDArray[np.float32], side: int, root: bool = False) -> Image.Image:
    """A map as a heat map of ``side`` pixels, dark to bright; ``root``: plot square roots."""
    values = np.sqrt(map) if root else map
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / max(high - low, 1e-12)
    channels = np.stack([np.clip(3 * scaled - i, 0, 1) for i in range(3)], -1)  # black, red, yellow, white
    image = Image.fromarray((channels * 255).astype(np.uint8))
    kernel = Image.Resampling.NEAREST if len(map) <= side else Image.Resampling.BOX
    return image.resize((side, side), kernel)


def overlaid(image: Image.Image, map: NDArray[np.float32], side: int) -> Image.Image:
    """A map over the image in grey, with the most attended tokens marked (figures 12 and 13).

    Few codes see those of the last row; they are shown no brighter than the brightest of the others.
    """
    map = np.minimum(map, map[:-1].max()) if len(map) > 1 else map
    grey = image.convert("L").convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    return marked(Image.blend(grey, heat(map, side), 0.6), map, 3)


def dotted(image: Image.Image, map: NDArray[np.float32], dots: int = DOTS) -> Image.Image:
    """The image, scaled up if it is small, with red dots where the map is highest (figure 13)."""
    scale = max(1, -(-TARGET // image.width))
    scaled = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    return marked(scaled, map, max(4, scaled.width // 54), dots)


def marked(image: Image.Image, map: NDArray[np.float32], radius: int, dots: int = DOTS) -> Image.Image:
    """Draw red dots on the positions where the map is highest."""
    pen, (rows, columns) = ImageDraw.Draw(image), map.shape
    for position in np.argsort(-map.ravel(), kind="stable")[:dots]:
        row, column = divmod(int(position), columns)
        x, y = (column + 0.5) / columns * image.width, (row + 0.5) / rows * image.height
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill="red", outline="white")
    return image


def layer_sheet(image: Image.Image, heads: Sequence[HeadFacts], side: int = SIDE) -> Image.Image:
    """A sheet of a layer: for every head its map over the image, its attention matrix, and its bias."""
    width, height = side + GAP, 2 * (side + GAP) + 2 * LINE
    across = min(ACROSS, len(heads))
    sheet = Image.new("RGB", (across * width + GAP, -(-len(heads) // across) * height + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, head in enumerate(heads):
        x, y = GAP + number % across * width, GAP + number // across * height
        sheet.paste(overlaid(image, head.map, side), (x, y))
        sheet.paste(heat(head.matrix, side, root=True), (x, y + side + GAP))
        for line, text in enumerate((f"head {head.head}", bias_text(classify(head)))):
            pen.text((x, y + 2 * (side + GAP) + line * LINE - 3), text, fill="black", font=font)
    return sheet


def bias_text(verdict: Verdict) -> str:
    """A head's bias as text."""
    if verdict.offset is None:
        return f"{verdict.bias} {verdict.strength:.2f}"
    up, left = verdict.offset
    parts = [f"{up} up"] if up else []
    if left or not up:
        parts.append(f"{abs(left)} {'right' if left < 0 else 'left'}")
    return f"{', '.join(parts) if (up, left) != (0, 0) else 'itself'} {verdict.strength:.2f}"


def depth_plots(report: AttentionReport) -> list[Block]:
    """Plots by layer: the effective number of tokens (mean, smallest and largest of a head), and shares."""
    layers = range(report.layers)
    by_layer = [[head.effective for head in report.of_layer(n)] for n in layers]
    effective = {
        "mean of the heads": [(float(n), float(np.mean(by_layer[n]))) for n in layers],
        "sparsest head": [(float(n), min(by_layer[n])) for n in layers],
        "broadest head": [(float(n), max(by_layer[n])) for n in layers],
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
    """Scores by head in the layer with the largest score, bars from least to largest (figure 14)."""
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
    largest = {head.layer: 0.0 for head in report.facts}
    for head in report.facts:
        for span in head.scores.values():
            largest[head.layer] = max(largest[head.layer], abs(span.least), abs(span.largest))
    return max(largest, key=lambda layer: largest[layer])


# ---------------------------------------------------------------------------------------------------- page


def write(report: AttentionReport, directory: Path) -> Path:
    """Write images as PNG files, ``heads.json``, and ``index.html``, a self-contained page.

    Returns the page's path; CogViewError if the directory is not writable.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        report.image.save(directory / "picture.png")
        sheets = {
            f"layer-{n:02d}": layer_sheet(report.image.image, report.of_layer(n))
            for n in range(report.layers)
        }
        for number, word in enumerate(report.words):
            for rank, head in enumerate(report.best_heads(number)):
                sheets[_name(number, word, rank)] = dotted(report.image.image, head.words[number])
        for name, image in sheets.items():
            write_image(directory / f"{name}.png", image)
        write_file(directory / "heads.json", json.dumps(facts(report), indent=1) + "\n")
        file = directory / "index.html"
        write_file(file, report_page(report, sheets))
    except OSError as error:
        raise CogViewError(f"{directory}: cannot be written ({error.strerror or error})") from error
    return file


def facts(report: AttentionReport) -> dict[str, Any]:
    """The statistics of every head and the image's provenance, as JSON."""
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
    return {"provenance": report.image.provenance.model_dump(mode="json"), "heads": heads}


def _name(number: int, word: str, rank: int) -> str:
    name = f"word-{number}-{word}-{rank}"
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)


def report_page(report: AttentionReport, sheets: dict[str, Image.Image]) -> str:
    """The page, with embedded images."""
    image = report.image
    counts = Counter(verdict.bias for verdict in report.verdicts)
    biases = ", ".join(f"{count} {bias}" for bias, count in counts.most_common())
    blocks: list[Block] = [
        html.picture(image.image, MAX_IMAGE, image.caption, TARGET),
        Text(f"heads: {biases}", note=False),
        Text(f"Attention pattern: {report.pattern}."),
    ]
    sections = [Section("The image", blocks)]
    for number, word in enumerate(report.words):
        figures = [
            html.picture(
                sheets[_name(number, word, rank)],
                MAX_IMAGE,
                f"layer {head.layer}, head {head.head}: follows it {report.follows(head, number):.2f}",
                TARGET,
            )
            for rank, head in enumerate(report.best_heads(number))
        ]
        sections.append(Section(f"Heads that localize “{word}”", figures))
    by_depth = [[str(n), *_biases(report, n, list(counts))] for n in range(report.layers)]
    sections += [
        Section("By depth", [*depth_plots(report), Table(("layer", *counts), by_depth)]),
        Section(f"Scales of the scores, layer {largest_layer(report)}", [scale_plot(report)]),
    ]
    note = Text(
        "Above: attention received, with the most attended codes marked. "
        "Below: attention from codes (rows) to codes (columns)."
    )
    for layer in range(report.layers):
        sheet = html.picture(sheets[f"layer-{layer:02d}"], MAX_IMAGE)
        sections.append(Section(f"Layer {layer}", [note, sheet] if layer == 0 else [sheet]))
    source = f"{image.model} {image.model_hash[:16]}, seed {image.seed}, index {image.index}"
    return html.page(f"Attention: {image.prompt}", sections, source)


def _biases(report: AttentionReport, layer: int, names: Sequence[str]) -> list[str]:
    counts = Counter(classify(head).bias for head in report.of_layer(layer))
    return [str(counts[name]) if counts[name] else "" for name in names]  # type: ignore[index]
