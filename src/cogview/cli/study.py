"""``cogview study``: people compare images of several models (CogView, section 4.2 and appendix E)."""

from __future__ import annotations

from pathlib import Path

import typer

from cogview.cli.options import Address, grouped
from cogview.cli.output import show
from cogview.config import Config, option
from cogview.errors import CogViewError
from cogview.study.create import NewStudy

study = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Let people compare pictures of several models: make a study, serve it, report it.",
)


@study.callback()
def _group() -> None:
    """Blind, in an order of each rater's own, by the protocol of CogView's appendix E."""


@study.command()
@grouped()
def create(new: NewStudy) -> None:
    """Check the groups of images, and copy them under anonymous names.

    Real images, or images that only went through the tokenizer, are one more model.

    cogview study create study/ --model ours=out/ours --model theirs=out/theirs --model real=photos/
    --captions captions.csv --title "Which pictures are better?"
    """
    made = new.create()
    asked = made.captions_per_rater * (made.places + 1)
    typer.echo(
        f"{new.out}: {len(made.groups)} captions x {len(made.models)} models; a rater gives {asked} answers. "
        f"Next: cogview study serve {new.out} --raters 20"
    )


class Raters(Config):
    """Who is asked."""

    folder: Path = option(..., "The study's folder.", argument=True, metavar="STUDY")
    raters: int | None = option(None, "Total number of raters to invite.", shown="those invited before", ge=1)
    url: str | None = option(
        None, "Start of the links, where raters come through a proxy: https://study.example"
    )


@study.command()
@grouped(port=8765)
def serve(given: Raters, address: Address) -> None:
    """Show the study's pages, and print a personal link for each rater.

    Links stay the same whenever it is served; every answer is saved at once. Ctrl-C stops.

    cogview study serve study/ --raters 20
    """
    from cogview.study import server
    from cogview.study.store import Store
    from cogview.web.sockets import LOOPBACK, listen, url_of

    folder, host, url = given.folder, address.host, given.url
    server.check_address(host, url)
    store = Store.open(folder)
    invited = store.invite(given.raters or 0)
    if not invited:
        raise CogViewError(f"{folder}: no rater is invited yet; say how many with --raters")
    listener = listen(host, address.port)
    base = (url or url_of(host, listener)).rstrip("/")
    for rater in range(1, invited + 1):
        typer.echo(f"rater {rater}\t{base}/r/{store.token(rater)}")
    typer.echo("every answer is saved at once; Ctrl-C stops", err=True)
    hosts = LOOPBACK if host in LOOPBACK else (*LOOPBACK, host)
    try:
        server.serve(store, listener, hosts, url)
    except KeyboardInterrupt:
        typer.echo("stopped; serve it again to go on", err=True)


class Results(Config):
    """What is reported, and where."""

    folder: Path = option(..., "The study's folder.", argument=True, metavar="STUDY")
    out: Path | None = option(None, "The folder to write.", "--out", "-o", shown="STUDY/report")
    as_json: bool = option(False, "Print the figures as JSON.", "--json")


@study.command()
@grouped()
def report(given: Results) -> None:
    """Write all answers as CSV, and the figures as JSON, PNG and one HTML page; at any time.

    cogview study report study/ -o results/
    """
    from cogview.study.results import outcomes, table, write_report
    from cogview.study.store import Store

    made, paths = write_report(Store.open(given.folder), given.out or given.folder / "report")
    if given.as_json:
        typer.echo(made.model_dump_json(indent=2))
    else:
        show(table(made), f"mean ± standard deviation; raters: {outcomes(made.figures)}", *map(str, paths))
