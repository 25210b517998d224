"""What the verbs of ``cogview eval`` share: how images are generated, where they are kept, the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogview.checkpoints.bundle import ModelBundle, ModelName, find
from cogview.cli.output import show, write_rows
from cogview.config import Check, Config, option
from cogview.pipelines.requests import Place, use_threads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table
    from rich.text import Text

    from cogview.evaluation.experiments.image_generator import ModelGenerator
    from cogview.evaluation.judges.classifier import AttributeClassifier
    from cogview.pipelines.model import Pipeline

Parts = Iterable["Table | Text | str"]

MODEL = option(..., "A model's name or directory.", "--model", "-m")
DATA = partial(
    option,
    help="A folder of pictures (with captions, where they count), a table or a folder of Parquet files.",
)
CORPUS = option(..., "The folder of Parquet files with avatars and their attributes.")
CLASSIFIER = option(..., "What `cogview eval train-classifier` wrote.")
READER = option(..., "What `cogview train` made of a reader's recipe.")
FEATURES = option(..., "What `cogview import lite0` or `cogview import inception` wrote.", "--weights")
SCORER = option(None, "Judge by `cogview eval train-scorer`'s network, too, in CLIP's place.")
SOURCE = option("dice", "Which rows of the corpus; '' for all.")
PLOT = option(None, "Write a plot of it (PNG, SVG or PDF).")
WORK = option(Path("runs/eval"), "Where pictures are kept, for stopped runs.")

NEAREST = "nearest-training"  # of evaluation/experiments/nearest.py: images of the training set, no model


def generator(name: str) -> None:
    """CogViewError where a name is neither a model's nor ``nearest-training``."""
    if name != NEAREST:
        find(name)


GeneratorName = Annotated[str, Check(generator)]


class Generation(Config):
    """How images are generated, and where they are kept."""

    first_stage_only: bool = option(False, "Of models of several steps: the small pictures of the first.")
    work: Path = WORK
    place: Place = Place()

    def by(self, model: str) -> ModelGenerator:
        """A model for the experiments, read at first use."""
        return open_generator(model, self.place, self.first_stage_only)


class Judged(Generation):
    """The model whose images are judged, and how they are generated."""

    model: ModelName = MODEL

    def generator(self) -> ModelGenerator:
        """The model for the experiments, read at first use."""
        return self.by(self.model)


def open_generator(model: str, place: Place, first_stage_only: bool = False) -> ModelGenerator:
    """A model for the experiments, read at first use."""
    from cogview.evaluation.experiments.image_generator import ModelGenerator

    found = ModelGenerator(model, place.precision, first_stage_only, place.torch_device())
    use_threads(place.threads, found.directory)
    return found


def open_model(model: str, place: Place) -> Pipeline:
    """A model, read now."""
    return place.open(ModelBundle.find(model))


def open_classifier(directory: Path) -> AttributeClassifier:
    """The attribute classifier in a directory."""
    from cogview.evaluation.judges.classifier import AttributeClassifier

    return AttributeClassifier.from_directory(directory)


class Rows(Config):
    """Which images of a folder or corpus count."""

    split: str | None = option(None, "Of a corpus: only this split.", shown="all")
    source: str | None = option(None, "Of a corpus: only rows of this source.", shown="all")
    count: int | None = option(None, "So many images.", "--count", "--n", "-n", shown="all", ge=2)


class Share(Config):
    """Which images this process generates."""

    rank: str = option("1/1", "I/N: generate the I-th of N shares only; the last one reports.", metavar="I/N")

    @property
    def part(self) -> tuple[int, int]:
        """(0-based number, of how many)."""
        from cogview.evaluation.sample_store import rank_of

        return rank_of(self.rank)

    def wait(self) -> None:
        """Say that the shares of other processes are missing."""
        typer.echo(f"share {self.rank} is generated; the same command reports when all shares are")


class Report(Config):
    """Where the report goes."""

    out: Path | None = option(None, "Write the report, with every number, as JSON.")
    as_json: bool = option(False, "Print the report as JSON instead of tables.", "--json")

    def finish(self, report: Config, parts: Callable[[Any], Parts]) -> None:
        """Write the report and show it, as JSON or as the tables and lines that ``parts`` makes of it."""
        from cogview.evaluation.reports import write_report

        if self.out:
            write_report(report, self.out)
        if self.as_json:
            typer.echo(report.model_dump_json(indent=2))
        else:
            show(*parts(report))


class Sheet(Report):
    """A report, and a sheet of the images."""

    sheet: Path | None = option(None, "Write a picture of all sets above each other (PNG).")

    def draw(self, sets: Mapping[str, NDArray[np.uint8]], shown: int, columns: int = 20) -> None:
        """Write the sheet, if it is asked for: ``shown`` images of each set, evenly spaced."""
        if self.sheet:
            count = len(next(iter(sets.values())))
            rows = spaced(count, shown)
            write_rows(self.sheet, [own[rows] for own in sets.values() if len(own) == count], columns)

    def of_files(
        self,
        found: tuple[Config, Mapping[str, Sequence[Path]]] | None,
        share: Share,
        shown: int,
        parts: Callable[[Any], Parts],
    ) -> None:
        """Sheet and report of images in files; None while other processes have images to generate."""
        from cogview.data.shards import Preprocessing
        from cogview.evaluation.sample_store import load_all

        if found is None:
            return share.wait()
        report, sets = found
        if self.sheet:
            shape, most = Preprocessing(size=128, resample="box"), min(shown, *map(len, sets.values()))
            rows = [[own[i] for i in spaced(len(own), most)] for own in sets.values()]
            write_rows(self.sheet, [load_all(paths, shape) for paths in rows])
        self.finish(report, parts)


def spaced(count: int, shown: int) -> list[int]:
    """At most ``shown`` numbers below ``count``, evenly spaced."""
    shown = min(count, shown)
    return [i * count // shown for i in range(shown)]
