"""``cogview watch``: show a run's losses, speed, memory and time left on the terminal."""

from __future__ import annotations

from cogview.cli.options import grouped
from cogview.cli.output import print_json
from cogview.config import Config, Existing, option


class WatchOptions(Config):
    """The run, and how it is shown."""

    run: Existing = option(..., "The run's directory.", argument=True, metavar="RUN")
    once: bool = option(False, "Show the state once and exit.")
    interval: float = option(2.0, "Seconds between updates.", ge=0.2)
    as_json: bool = option(False, "Print the state as JSON and exit.", "--json")


@grouped()
def watch(args: WatchOptions) -> None:
    """Show losses of text and image, tokens per second, utilisation, memory, time left and the last samples.

    cogview watch runs/base

    It reads the run's files, on any machine with access to them, during or after the run. Ctrl-C ends the
    display, not the run.
    """
    import time

    from rich.console import Console

    from cogview.training.view import live, read_run, render, summary

    run, console = args.run, Console()
    view = read_run(run)
    if args.as_json:
        print_json(summary(view))
        return
    if args.once or not console.is_terminal:
        console.print(render(view))
        return
    try:
        with live(run, console, args.interval):
            while read_run(run).state != "done":
                time.sleep(args.interval)
    except KeyboardInterrupt:
        return
