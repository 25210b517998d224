"""What the verbs of ``cogview eval`` share: how images are generated, where they are kept, the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cogview.cli.output import show, write_rows
from cogview.config import Config, option
from cogview.evaluation.inputs import Share

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table
    from rich.text import Text


Parts = Iterable["Table | Text | str"]


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

    sheet: Path | None = option(None, "Write an image of all sets, one above the other (PNG).")

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
            return typer.echo(share.waiting)
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
