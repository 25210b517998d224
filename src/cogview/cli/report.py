"""``cogview report``: one HTML page of runs, reports, benchmarks and sheets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogview.cli.options import grouped
from cogview.cli.output import writing
from cogview.config import Check, Config, existing, option
from cogview.files import write_file


class Page(Config):
    """What is put on the page."""

    sources: Annotated[tuple[Path, ...], Check(existing)] = option(
        ..., "Runs, models, .json reports, pictures, or folders of these.", argument=True, metavar="RUN..."
    )
    out: Path = option(Path("report.html"), "The page to write.", "--out", "-o")
    title: str = option("cogview report", "Its title.")
    max_mb: float = option(10.0, "Largest size of the page; images are shrunk to fit.", ge=0.05)


@grouped()
def report(page: Page) -> None:
    """One HTML page with plots, samples, tables and manifests, in one file that needs no network.

    cogview report runs/base attributes.json best-of.json sheet.png -o report.html
    """
    from cogview.evaluation.report_page import build

    text = build(page.sources, page.title, int(page.max_mb * 1e6))
    with writing(page.out):
        write_file(page.out, text)
    typer.echo(f"{page.out}: {len(text.encode()) / 1e6:.2f} MB")
