"""Tables 1 of both papers, in our metrics, for models of one's own: FID-0 … FID-8, KID-0, IS and CapLoss.

python examples/paper_tables/run.py --corpus CORPUS --weights lite0.safetensors --model pictogram

For the captions of `-n` withheld pictures every model draws, in each language. The reference of FID and KID
is `-n` other pictures of the same split, so the row of the captions' own pictures (real) is the ceiling of
all figures, FID of few pictures being biased as it is. `nearest-training` (the training picture with the
nearest caption) is the trivial floor, and CapLoss has one of its own: every picture with the next picture's
caption. `--judge` is the family whose caption role tells CapLoss. With `--best-of 4` every model with a
caption role has a row more; of models of several steps the pictures of the first are taken. With `--work
runs/alignment` what `cogview eval alignment` drew is used. The figures are named after their network
(Lite0-FID), and do not compare with those of the papers. Stopped, the same command goes on. `cogview report
runs/tables`: a page.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cogview.cli.output import bars
from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.evaluation.experiments.image_generator import ModelGenerator
from cogview.evaluation.experiments.nearest import RetrievalBaseline
from cogview.evaluation.judges.captioned import Captioned, read_captioned
from cogview.evaluation.metrics.diversity import normalized, vendi
from cogview.evaluation.metrics.fid import (
    DistributionPlan,
    Extractor,
    Value,
    compare_pictures,
    describe,
    open_extractor,
)
from cogview.evaluation.metrics.image_sets import ImageSet, Shape
from cogview.evaluation.metrics.intervals import mean_figure
from cogview.evaluation.plans import AttributePlan
from cogview.evaluation.reports import versions
from cogview.evaluation.sample_store import ImageGenerator, Progress, generate_images, load_all

BLURS = (0.0, 1.0, 2.0, 4.0, 8.0)
PLANS = (
    DistributionPlan(metrics=("fid", "is"), blurs=BLURS, bootstrap=0),
    DistributionPlan(metrics=("kid",), blurs=BLURS, bootstrap=1000),
)
TABLES = {
    "CogView, table 1": (*(f"FID-{blur:g}" for blur in BLURS), "IS", "CapLoss"),
    "CogView2, table 1": (*(f"FID-{blur:g}" for blur in BLURS), "IS"),
    "KID x 1000, for few pictures": tuple(f"KID-{blur:g}" for blur in BLURS),
    "Caption loss and diversity": ("CapLoss", "CapLoss, captions exchanged", "Vendi"),
}
Pixels = NDArray[np.uint8]
Row = dict[str, Value]


@dataclass(frozen=True)
class Set:
    """A row of the tables: its name, its pictures, and the texts they were drawn for."""

    name: str
    pictures: Pixels
    texts: Sequence[str]


def sets(
    args: argparse.Namespace, data: Captioned, judge: ModelGenerator, progress: Progress
) -> Iterator[Set]:
    """The real pictures, then what every model draws, in each language."""
    drawers: list[ImageGenerator] = [ModelGenerator(name, args.precision, small=True) for name in args.model]
    drawers.append(RetrievalBaseline(args.corpus, judge.family.text_tokenizer, "train", args.source))
    for language in args.languages.split(","):
        texts = [text or "" for text in data.first(language)]
        if not all(texts):
            raise CogViewError(f"{args.corpus}: a picture has no caption in {language!r}; see --languages")
        yield Set(f"real, {language}", data.images, texts)
        for drawer in drawers:
            for best_of in (1, args.best_of)[: 1 + (args.best_of > 1 and has_captions(drawer))]:
                title = f"{drawer.name}{f', best of {best_of}' if best_of > 1 else ''}, {language}"
                yield Set(title, drawn(drawer, texts, best_of, args, title, progress), texts)


def has_captions(drawer: ImageGenerator) -> bool:
    """Whether it can choose the best of several."""
    return isinstance(drawer, ModelGenerator) and "caption" in drawer.family.bundle.config.roles


def drawn(
    drawer: ImageGenerator,
    texts: Sequence[str],
    best_of: int,
    args: argparse.Namespace,
    title: str,
    show: Progress,
) -> Pixels:
    """A picture of each text, at the size of the real ones; kept in the work folder."""
    sampling = {"best_of": best_of} if best_of > 1 else {}
    plan = AttributePlan(seed=args.seed, batch=args.batch, sampling=sampling)
    paths = generate_images(texts, drawer, args.work, plan, what=f"generating {title}", progress=show)
    assert paths is not None  # one process draws them all
    return load_all(paths, Preprocessing(size=args.size, resample="box"))


def row(found: Set, real: ImageSet, judge: ModelGenerator, extractor: Extractor, work: Path) -> Row:
    """All figures of one set."""
    figures = Row()
    for plan in PLANS:
        report = compare_pictures(real, as_set(found.name, found.pictures), plan, extractor, work)
        assert report is not None  # it was computed in one part
        figures |= {name.removeprefix(f"{extractor.name}-"): own for name, own in report.figures.items()}
    others = [*found.texts[1:], found.texts[0]]
    for name, texts in (("CapLoss", found.texts), ("CapLoss, captions exchanged", others)):
        mean = mean_figure(judge.losses(found.pictures, texts))
        figures[name] = Value(**mean.model_dump())
    described = describe(as_set(found.name, found.pictures), extractor, Shape(256, extractor.size), work)
    assert described is not None
    figures["Vendi"] = Value(value=vendi(normalized(described.features)))
    return figures


def as_set(name: str, pictures: Pixels) -> ImageSet:
    """Pictures in memory as a set."""

    def png(picture: Pixels) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        return buffer.getvalue()

    return ImageSet(name, tuple((f"{i:06d}", png(own)) for i, own in enumerate(pictures)))


def markdown(rows: dict[str, Row]) -> str:
    """The tables as the papers print them."""
    parts = []
    for title, columns in TABLES.items():
        lines = [f"| {title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for name, own in rows.items():
            lines.append(f"| {name} | {' | '.join(cell(column, own[column]) for column in columns)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def cell(column: str, value: Value) -> str:
    """A figure, with half of its 95 % interval where it has one; KID times a thousand."""
    scale = 1000 if column.startswith("KID") else 1
    text = f"{scale * value.value:.3f}"
    if value.low is None or value.high is None:
        return text
    return f"{text} ±{scale * (value.high - value.low) / 2:.3f}"


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--corpus", type=Path, required=True, help="pictures with captions, as `cogview data` reads"
    )
    parser.add_argument(
        "--weights", type=Path, required=True, help="what `cogview import lite0` (or inception) wrote"
    )
    parser.add_argument(
        "--model", action="append", required=True, help="a family; may be given several times"
    )
    parser.add_argument("--judge", default="pictogram", help="the family whose caption role tells CapLoss")
    parser.add_argument("-n", type=int, default=500, help="captions, and as many pictures for the reference")
    parser.add_argument("--split", default="test_comp")
    parser.add_argument("--source", default=None)
    parser.add_argument("--languages", default="zh,en")
    parser.add_argument("--best-of", type=int, default=1)
    parser.add_argument("--size", type=int, default=72, help="side at which all pictures are judged")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=20, help="prompts drawn together")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16", "int8"), default="fp32")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"))
    parser.add_argument("--work", type=Path, help="where pictures and features are kept (default: OUT/work)")
    args = parser.parse_args(words)
    args.work = args.work or args.out / "work"
    return args


def main(words: Sequence[str] | None = None) -> None:
    args = arguments(words)
    extractor, judge = open_extractor(args.weights), ModelGenerator(args.judge, args.precision)
    judge.family.captioning  # noqa: B018  (refused before anything is drawn)
    shape = Preprocessing(size=args.size, resample="box")
    both = read_captioned(args.corpus, shape, args.split or None, args.source, 2 * args.n)
    data, others = both.rows(range(args.n)), both.rows(range(args.n, 2 * args.n))
    real, rows = as_set("reference", others.images), dict[str, Row]()
    with bars() as progress:
        for found in sets(args, data, judge, progress):
            rows[found.name] = row(found, real, judge, extractor, args.work / "features")
            progress("measuring", len(rows), len(rows))
    facts = {
        "corpus": args.corpus.name,
        "corpus_fingerprint": data.fingerprint,
        "reference_fingerprint": others.fingerprint,
        "split": args.split,
        "pictures": len(data),
        "seed": args.seed,
        "extractor": extractor.name,
        "extractor_fingerprint": extractor.fingerprint,
        "judge": judge.name,
        "judge_fingerprint": judge.fingerprint,
        "models": {name: ModelGenerator(name).fingerprint for name in args.model},
        **versions(),
    }
    told = {name: {column: own.model_dump() for column, own in row.items()} for name, row in rows.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "tables.json").write_text(json.dumps({"rows": told, "facts": facts}, indent=1) + "\n")
    (args.out / "tables.md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    try:
        main()
    except CogViewError as error:
        sys.exit(f"error: {error}")
