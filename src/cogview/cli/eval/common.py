"""Output of the ``cogview eval`` verbs: reports and contact sheets."""

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
    """Where the report is written."""

    out: Path | None = option(None, "Write the report, with every number, to a JSON file.")
    as_json: bool = option(False, "Print the report as JSON instead of tables.", "--json")

    def finish(self, report: Config, parts: Callable[[Any], Parts]) -> None:
        """Write and print a report, as JSON or as the tables and lines that ``parts`` returns for it."""
        from cogview.evaluation.reports import write_report

        if self.out:
            write_report(report, self.out)
        if self.as_json:
            typer.echo(report.model_dump_json(indent=2))
        else:
            show(*parts(report))


class Sheet(Report):
    """Where the report and a sheet of the images are written."""

    sheet: Path | None = option(None, "Write a sheet of all sets of images, one above the other (PNG).")

    def write_sheet(self, sets: Mapping[str, NDArray[np.uint8]], shown: int, columns: int = 20) -> None:
        """Write the sheet, if requested: ``shown`` images of each set (n, size, size, 3), evenly spaced."""
        if self.sheet:
            count = len(next(iter(sets.values())))
            rows = spaced(count, shown)
            write_rows(
                self.sheet, [images[rows] for images in sets.values() if len(images) == count], columns
            )

    def finish_files(
        self,
        result: tuple[Config, Mapping[str, Sequence[Path]]] | None,
        share: Share,
        shown: int,
        parts: Callable[[Any], Parts],
    ) -> None:
        """Write sheet and report. result: report and image files by set; None until all ranks are done."""
        from cogview.data.shards import Preprocessing
        from cogview.evaluation.sample_store import load_all

        if result is None:
            return typer.echo(share.waiting)
        report, sets = result
        if self.sheet:
            shape, count = Preprocessing(size=128, resample="box"), min(shown, *map(len, sets.values()))
            rows = [[paths[i] for i in spaced(len(paths), count)] for paths in sets.values()]
            write_rows(self.sheet, [load_all(paths, shape) for paths in rows])
        self.finish(report, parts)


def spaced(count: int, shown: int) -> list[int]:
    """At most ``shown`` indices below ``count``, evenly spaced."""
    shown = min(count, shown)
    return [i * count // shown for i in range(shown)]
