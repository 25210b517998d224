"""``cogview study``: human comparison of several models' images (CogView, section 4.2 and appendix E)."""

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
    help="Let people compare images of several models: create a study, serve it, report the results.",
)


@study.callback()
def _group() -> None:
    """Blind, in a different order for each rater, by the protocol of CogView's appendix E."""


@study.command()
@grouped()
def create(new: NewStudy) -> None:
    """Check the groups of images, and copy them under anonymous names.

    Real images, or images reconstructed by the tokenizer, can be added as one more model.

    cogview study create study/ --model ours=out/ours --model theirs=out/theirs --model real=photos/
    --captions captions.csv --title "Which images are better?"
    """
    created = new.create()
    answers = created.captions_per_rater * (created.places + 1)
    counts = f"{len(created.groups)} captions x {len(created.models)} models"
    typer.echo(
        f"{new.out}: {counts}; a rater gives {answers} answers. "
        f"Next: cogview study serve {new.out} --raters 20"
    )


class Raters(Config):
    """The study to serve, and the raters to invite."""

    folder: Path = option(..., "The study's folder.", argument=True, metavar="STUDY")
    raters: int | None = option(
        None, "Total number of raters to invite.", shown="those already invited", ge=1
    )
    url: str | None = option(
        None, "Base of the links, if raters connect through a proxy: https://study.example"
    )


@study.command()
@grouped(port=8765)
def serve(args: Raters, address: Address) -> None:
    """Serve the study's pages, and print a personal link for each rater.

    Links stay the same when it is served again; every answer is saved at once. Ctrl-C stops the server.

    cogview study serve study/ --raters 20
    """
    from cogview.study import server
    from cogview.study.store import Store
    from cogview.web.sockets import LOOPBACK, listen, url_of

    folder, host, url = args.folder, address.host, args.url
    server.check_address(host, url)
    store = Store.open(folder)
    invited = store.invite(args.raters or 0)
    if not invited:
        raise CogViewError(f"{folder}: no rater is invited yet; give their number with --raters")
    listener = listen(host, address.port)
    base = (url or url_of(host, listener)).rstrip("/")
    for rater in range(1, invited + 1):
        typer.echo(f"rater {rater}\t{base}/r/{store.token(rater)}")
    typer.echo("every answer is saved at once; Ctrl-C stops", err=True)
    hosts = LOOPBACK if host in LOOPBACK else (*LOOPBACK, host)
    try:
        server.serve(store, listener, hosts, url)
    except KeyboardInterrupt:
        typer.echo("stopped; serve it again to continue", err=True)


class Results(Config):
    """The study to report, and where."""

    folder: Path = option(..., "The study's folder.", argument=True, metavar="STUDY")
    out: Path | None = option(None, "The folder for the report.", "--out", "-o", shown="STUDY/report")
    as_json: bool = option(False, "Print the figures as JSON.", "--json")


@study.command()
@grouped()
def report(args: Results) -> None:
    """Write all answers so far as CSV, and the results as JSON, PNG and an HTML page.

    cogview study report study/ -o results/
    """
    from cogview.study.results import outcomes, table, write_report
    from cogview.study.store import Store

    results, paths = write_report(Store.open(args.folder), args.out or args.folder / "report")
    if args.as_json:
        typer.echo(results.model_dump_json(indent=2))
    else:
        raters = f"mean ± standard deviation; raters: {outcomes(results.figures)}"
        show(table(results), raters, *map(str, paths))
