"""``cogview watch``: a run's losses, speed, memory and time left, on the terminal."""

from __future__ import annotations

from cogview.cli.options import grouped
from cogview.cli.output import print_json
from cogview.config import Config, Existing, option


class Watching(Config):
    """The run, and how it is shown."""

    run: Existing = option(..., "The run's directory.", argument=True, metavar="RUN")
    once: bool = option(False, "Show it once and exit.")
    interval: float = option(2.0, "Seconds between updates.", ge=0.2)
    as_json: bool = option(False, "Print the state as JSON and exit.", "--json")


@grouped()
def watch(given: Watching) -> None:
    """Losses of text and image, tokens a second, utilisation, memory, time left, last samples.

    cogview watch runs/base

    It reads the run's files, on any machine that sees them, during the run or after it. Ctrl-C only ends the
    display.
    """
    import time

    from rich.console import Console

    from cogview.training.view import live, read_run, render, summary

    run, console = given.run, Console()
    view = read_run(run)
    if given.as_json:
        print_json(summary(view))
        return
    if given.once or not console.is_terminal:
        console.print(render(view))
        return
    try:
        with live(run, console, given.interval):
            while read_run(run).state != "done":
                time.sleep(given.interval)
    except KeyboardInterrupt:
        return
