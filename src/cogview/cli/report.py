"""``cogview report``: one HTML page of runs, reports, benchmarks and sheets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogview.cli.arguments import existing
from cogview.errors import CogViewError
from cogview.files import write_file


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            callback=existing,
            help="Runs, models, .json reports, pictures, or folders of these.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Its title.")] = "cogview report",
    max_mb: Annotated[
        float, typer.Option("--max-mb", min=0.05, help="The most it may weigh; pictures shrink to fit.")
    ] = 10.0,
) -> None:
    """One HTML page with plots, samples, tables and manifests, in one file that needs no network.

    cogview report runs/base attributes.json best-of.json sheet.png -o report.html
    """
    from cogview.evaluation.report_page import build

    text = build(sources, title, int(max_mb * 1e6))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_file(out, text)
    except OSError as error:
        raise CogViewError(f"{out}: cannot be written ({error.strerror or error})") from None
    typer.echo(f"{out}: {len(text.encode()) / 1e6:.2f} MB")
