"""Tables 1 of both papers, in our metrics, for models of one's own: FID-0 … FID-8, KID-0, IS and CapLoss.

python examples/paper_tables/run.py --corpus CORPUS --weights lite0.safetensors --model pictogram

For the captions of withheld pictures every model draws, in each language; the real pictures are the reference
of FID and KID, and the ceiling of CapLoss. `nearest-training` (the training picture with the nearest caption)
is the trivial floor, and CapLoss has one of its own: every picture with the next picture's caption. `--judge`
is the family whose caption role tells CapLoss; it should not be among the models. With `--best-of 4` every
model with a caption role has a row more. The figures are named after their network (Lite0-FID), and do not
compare with those of the papers. Stopped, the same command goes on. `cogview report runs/tables`: a page.
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

from cogview.cli.alignment import find_drawer
from cogview.cli.evaluate import bars
from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.evaluation.attributes import Drawer
from cogview.evaluation.captioned import Captioned, read_captioned
from cogview.evaluation.distributions import DistributionPlan, Extractor, compare_pictures, open_extractor
from cogview.evaluation.drawer import ModelDrawer
from cogview.evaluation.drawing import Progress, draw_prompts, load_all, run_folder
from cogview.evaluation.nearest import NAME as NEAREST
from cogview.evaluation.pictures import PictureSet
from cogview.evaluation.reports import versions

BLURS = (0.0, 1.0, 2.0, 4.0, 8.0)
PLAN = DistributionPlan(metrics=("fid", "kid", "is"), blurs=BLURS, bootstrap=0)
TABLES = {
    "CogView, table 1": (*(f"FID-{blur:g}" for blur in BLURS), "IS", "CapLoss"),
    "CogView2, table 1": (*(f"FID-{blur:g}" for blur in BLURS), "IS"),
    "KID, for few pictures": (*(f"KID-{blur:g}" for blur in BLURS), "CapLoss", "CapLoss, captions exchanged"),
}
Pixels = NDArray[np.uint8]
Row = dict[str, float]


@dataclass(frozen=True)
class Set:
    """A row of the tables: its name, its pictures, and the texts they were drawn for."""

    name: str
    pictures: Pixels
    texts: Sequence[str]


def sets(args: argparse.Namespace, data: Captioned, judge: ModelDrawer, progress: Progress) -> Iterator[Set]:
    """The real pictures, then what every model draws, in each language."""
    for language in args.languages.split(","):
        texts = [text or "" for text in data.first(language)]
        if not all(texts):
            raise CogViewError(f"{args.corpus}: a picture has no caption in {language!r}; see --languages")
        yield Set(f"real, {language}", data.pictures, texts)
        for name in (*args.model, NEAREST):
            drawer = find_drawer(name, args.corpus, judge.family.text, args.precision, args.source)
            for best_of in (1, args.best_of)[: 1 + (args.best_of > 1 and has_captions(drawer))]:
                title = f"{drawer.name}{f', best of {best_of}' if best_of > 1 else ''}, {language}"
                yield Set(title, drawn(drawer, texts, best_of, args, title, progress), texts)


def has_captions(drawer: Drawer) -> bool:
    """Whether it can choose the best of several."""
    return isinstance(drawer, ModelDrawer) and "caption" in drawer.family.family.config.roles


def drawn(
    drawer: Drawer, texts: Sequence[str], best_of: int, args: argparse.Namespace, title: str, show: Progress
) -> Pixels:
    """A picture of each text, at the size of the real ones; kept in the work folder."""
    sampling = {"best_of": best_of} if best_of > 1 else {}
    facts = {"model": drawer.fingerprint, "texts": list(texts), "seed": args.seed, "sampling": sampling}
    folder = run_folder(args.out / "work", "drawn", facts | {"precision": drawer.precision})
    paths = draw_prompts(texts, drawer, folder, args.seed, sampling, what=f"drawing {title}", progress=show)
    assert paths is not None  # one process draws them all
    return load_all(paths, Preprocessing(size=args.size, resample="box"))


def row(found: Set, real: PictureSet, judge: ModelDrawer, extractor: Extractor, work: Path) -> Row:
    """All figures of one set."""
    report = compare_pictures(real, as_set(found.name, found.pictures), PLAN, extractor, work / "features")
    assert report is not None  # it was computed in one part
    figures = {name.removeprefix(f"{extractor.name}-"): own.value for name, own in report.figures.items()}
    others = [*found.texts[1:], found.texts[0]]
    figures["CapLoss"] = float(judge.losses(found.pictures, found.texts).mean())
    figures["CapLoss, captions exchanged"] = float(judge.losses(found.pictures, others).mean())
    return figures


def as_set(name: str, pictures: Pixels) -> PictureSet:
    """Pictures in memory as a set."""

    def png(picture: Pixels) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        return buffer.getvalue()

    return PictureSet(name, tuple((f"{i:06d}", png(own)) for i, own in enumerate(pictures)))


def markdown(rows: dict[str, Row]) -> str:
    """The tables as the papers print them."""
    parts = []
    for title, columns in TABLES.items():
        lines = [f"| {title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for name, own in rows.items():
            cells = (
                f"{own[column]:.3f}" if "KID" not in column else f"{own[column]:.5f}" for column in columns
            )
            lines.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


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
    parser.add_argument("-n", type=int, default=500, help="captions")
    parser.add_argument("--split", default="test_comp")
    parser.add_argument("--source", default=None)
    parser.add_argument("--languages", default="zh,en")
    parser.add_argument("--best-of", type=int, default=1)
    parser.add_argument("--size", type=int, default=72, help="side at which all pictures are judged")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    args = arguments(words)
    extractor, judge = open_extractor(args.weights), ModelDrawer(args.judge, args.precision)
    judge.family.captioner  # noqa: B018  (refused before anything is drawn)
    shape = Preprocessing(size=args.size, resample="box")
    data = read_captioned(args.corpus, shape, args.split or None, args.source, args.n)
    real, rows = as_set("real", data.pictures), dict[str, Row]()
    with bars() as progress:
        for found in sets(args, data, judge, progress):
            rows[found.name] = row(found, real, judge, extractor, args.out)
            progress("measuring", len(rows), len(rows))
    facts = {
        "corpus": args.corpus.name,
        "corpus_fingerprint": data.fingerprint,
        "split": args.split,
        "pictures": len(data),
        "seed": args.seed,
        "extractor": extractor.name,
        "extractor_fingerprint": extractor.fingerprint,
        "judge": judge.name,
        "judge_fingerprint": judge.fingerprint,
        "models": {name: ModelDrawer(name).fingerprint for name in args.model},
        **versions(),
    }
    (args.out / "tables.json").write_text(json.dumps({"rows": rows, "facts": facts}, indent=1) + "\n")
    (args.out / "tables.md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    try:
        main()
    except CogViewError as error:
        sys.exit(f"error: {error}")
