"""``cogview watch``: a run's losses, speed, memory and time left, on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogview.cli.arguments import existing


def watch(
    run: Annotated[Path, typer.Argument(callback=existing, help="The run's directory.", show_default=False)],
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what is known as JSON and end.")] = False,
) -> None:
    """Losses of text and image, tokens a second, utilisation, memory, time left, last samples.

    cogview watch runs/base

    It reads the run's files and may be run anywhere that sees them, while the run goes on or after it. Ctrl-C
    ends the watching only.
    """
    import json
    import time

    from rich.console import Console

    from cogview.training.view import live, read_run, render, summary

    view, console = read_run(run), Console()
    if as_json:
        typer.echo(json.dumps(summary(view), indent=1))
        return
    if once or not console.is_terminal:
        console.print(render(view))
        return
    try:
        with live(run, console, interval):
            while read_run(run).state != "done":
                time.sleep(interval)
    except KeyboardInterrupt:
        return
