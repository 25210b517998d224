"""``cogview study``: people compare pictures of several models (CogView, section 4.2 and appendix E)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cogview.cli.options import Address, grouped
from cogview.config import Config, Existing, option, parse_pairs
from cogview.errors import CogViewError

if TYPE_CHECKING:
    from cogview.study.results import Report

study = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Let people compare pictures of several models: make a study, serve it, report it.",
)


@study.callback()
def _group() -> None:
    """Blind, in an order of each rater's own, by the protocol of CogView's appendix E."""


class New(Config):
    """The study that is made."""

    out: Path = option(..., "The study's new folder.", argument=True, metavar="OUT")
    model: tuple[str, ...] = option(
        ...,
        "A model's pictures, one a caption; give it for each model.",
        metavar="NAME=FOLDER",
        repeated=True,
    )
    captions: Existing = option(
        ...,
        "A table (CSV, TSV, JSONL) with columns key and en, zh or caption; or a text of one a line.",
    )
    title: str = option("", "What raters see at the top.")
    ab: str | None = option(
        None,
        "Two models that share one place: each rater sees one of them for half of the captions.",
        metavar="FIRST,SECOND",
    )
    captions_per_rater: int | None = option(None, "How many captions a rater is asked.", shown="all", ge=1)
    size: int | None = option(None, "Make all pictures this many pixels a side.", ge=16, le=4096)
    seed: int = option(0, "Decides orders and halves.", ge=0)

    def pair(self) -> list[str] | None:
        """The two models of ``ab``."""
        if self.ab is None:
            return None
        names = [name.strip() for name in self.ab.split(",") if name.strip()]
        if len(names) != 2 or self.ab.count(",") != 1:
            raise CogViewError(f"--ab {self.ab}: give the names of two models, FIRST,SECOND")
        return names


@study.command()
@grouped()
def create(new: New) -> None:
    """Check the groups of pictures, and copy them under anonymous names.

    Real pictures, or pictures that only went through the tokenizer, are one more model.

    cogview study create study/ --model ours=out/ours --model theirs=out/theirs --model real=photos/
    --captions captions.csv --title "Which pictures are better?"
    """
    from cogview.study.create import create_study

    out = new.out
    made = create_study(
        out,
        {name: Path(folder) for name, folder in parse_pairs("--model", new.model).items()},
        new.captions,
        title=new.title,
        ab=new.pair(),
        captions_per_rater=new.captions_per_rater,
        size=new.size,
        seed=new.seed,
    )
    asked = made.captions_per_rater * (made.places + 1)
    typer.echo(
        f"{out}: {len(made.groups)} captions x {len(made.models)} models; a rater gives {asked} answers. "
        f"Next: cogview study serve {out} --raters 20"
    )


class Raters(Config):
    """Who is asked."""

    folder: Path = option(..., "The study's folder.", argument=True, metavar="STUDY")
    raters: int | None = option(None, "Total number of raters to invite.", shown="those invited before", ge=1)
    url: str | None = option(
        None, "What links begin with, where raters come through a proxy: https://study.example"
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
    _check_address(host, url)
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
    from cogview.study.results import write_report
    from cogview.study.store import Store

    made, paths = write_report(Store.open(given.folder), given.out or given.folder / "report")
    if given.as_json:
        typer.echo(made.model_dump_json(indent=2))
    else:
        _print(made, paths)


def _check_address(host: str, url: str | None) -> None:
    from urllib.parse import urlsplit

    if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise CogViewError(f"--url {url}: expected an address such as https://study.example")
    if url is None and host in ("0.0.0.0", "::"):
        raise CogViewError(f"--host {host} says no name for the links; add --url http://NAME:PORT")


def _print(made: Report, paths: list[Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    from cogview.study.records import SCALES
    from cogview.study.results import model_rows, outcomes

    table = Table("model", *SCALES, "best", "of")
    for row in model_rows(made.figures, intervals=False):
        table.add_row(*row)
    Console().print(table)
    typer.echo(f"mean ± standard deviation; raters: {outcomes(made.figures)}")
    for path in paths:
        typer.echo(path)
