"""``cogview report``: one HTML page with runs, reports, benchmarks and contact sheets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogview.cli.options import grouped
from cogview.cli.output import writing
from cogview.config import Check, Config, existing, option
from cogview.files import write_file


class Page(Config):
    """The page to write, and its sources."""

    sources: Annotated[tuple[Path, ...], Check(existing)] = option(
        ..., "Runs, models, .json reports, images, or folders of these.", argument=True, metavar="RUN..."
    )
    out: Path = option(Path("report.html"), "The page to write.", "--out", "-o")
    title: str = option("cogview report", "Title of the page.")
    max_mb: float = option(10.0, "Largest size of the page; images are shrunk to fit.", ge=0.05)


@grouped()
def report(page: Page) -> None:
    """Write one self-contained HTML file with plots, samples, tables and manifests.

    cogview report runs/base attributes.json best-of.json sheet.png -o report.html
    """
    from cogview.evaluation.report_page import build

    text = build(page.sources, page.title, int(page.max_mb * 1e6))
    with writing(page.out):
        write_file(page.out, text)
    typer.echo(f"{page.out}: {len(text.encode()) / 1e6:.2f} MB")
