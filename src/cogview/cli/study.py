"""``cogview study``: people compare pictures of several models (CogView, section 4.2 and appendix E)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogview.cli.arguments import existing
from cogview.errors import CogViewError

if TYPE_CHECKING:
    from cogview.study.report import Report

study = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Let people compare pictures of several models: make a study, serve it, report it.",
)


@study.callback()
def _group() -> None:
    """Blind, in an order of each rater's own, by the protocol of CogView's appendix E."""


@study.command()
def create(
    out: Annotated[Path, typer.Argument(help="The study's new folder.", show_default=False)],
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            metavar="NAME=FOLDER",
            help="A model's pictures, one a caption; give it for each model.",
        ),
    ],
    captions: Annotated[
        Path,
        typer.Option(
            callback=existing,
            help="A table (CSV, TSV, JSONL) with columns key and en, zh or caption; or a text of one a line.",
            show_default=False,
        ),
    ],
    title: Annotated[str, typer.Option(help="What raters see at the top.")] = "",
    ab: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST,SECOND",
            help="Two models that share one place: each rater sees one of them for half of the captions.",
        ),
    ] = None,
    captions_per_rater: Annotated[
        int | None, typer.Option(min=1, help="How many captions a rater is asked; default all.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=16, max=4096, help="Make all pictures this many pixels a side.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides orders and halves.")] = 0,
) -> None:
    """Check the groups of pictures, and copy them under anonymous names.

    Real pictures, or pictures that only went through the tokenizer, are one more model.

    cogview study create study/ --model ours=out/ours --model theirs=out/theirs --model real=photos/
    --captions captions.csv --title "Which pictures are better?"
    """
    from cogview.study.create import create_study

    made = create_study(
        out,
        _models(model),
        captions,
        title=title,
        ab=_pair(ab),
        captions_per_rater=captions_per_rater,
        size=size,
        seed=seed,
    )
    asked = made.captions_per_rater * (made.places + 1)
    typer.echo(
        f"{out}: {len(made.groups)} captions x {len(made.models)} models; a rater gives {asked} answers. "
        f"Next: cogview study serve {out} --raters 20"
    )


@study.command()
def serve(
    folder: Annotated[
        Path,
        typer.Argument(metavar="STUDY", help="The study's folder.", show_default=False),
    ],
    raters: Annotated[
        int | None, typer.Option(min=1, help="Invite so many raters in all; default those invited before.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; the default is this machine alone.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8765,
    url: Annotated[
        str | None,
        typer.Option(help="What links begin with, where raters come through a proxy: https://study.example"),
    ] = None,
) -> None:
    """Show the study's pages, and print a personal link for each rater.

    Links stay the same whenever it is served; every answer is saved at once. Ctrl-C stops.

    cogview study serve study/ --raters 20
    """
    from cogview.study import server
    from cogview.study.store import Store
    from cogview.web.sockets import LOOPBACK, listen

    _check_address(host, url)
    store = Store.open(folder)
    invited = store.invite(raters or 0)
    if not invited:
        raise CogViewError(f"{folder}: no rater is invited yet; say how many with --raters")
    listener = listen(host, port)
    name = f"[{host}]" if ":" in host else host
    base = (url or f"http://{name}:{listener.getsockname()[1]}").rstrip("/")
    for rater in range(1, invited + 1):
        typer.echo(f"rater {rater}\t{base}/r/{store.token(rater)}")
    typer.echo("every answer is saved at once; Ctrl-C stops", err=True)
    hosts = LOOPBACK if host in LOOPBACK else (*LOOPBACK, host)
    try:
        server.serve(store, listener, hosts, url)
    except KeyboardInterrupt:
        typer.echo("stopped; serve it again to go on", err=True)


@study.command()
def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="STUDY", help="The study's folder.", show_default=False),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder to write; default STUDY/report.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Write all answers as CSV, and the figures as JSON, PNG and one HTML page; at any time.

    cogview study report study/ -o results/
    """
    from cogview.study.report import write_report
    from cogview.study.store import Store

    made, paths = write_report(Store.open(folder), out or folder / "report")
    if as_json:
        typer.echo(made.model_dump_json(indent=2))
    else:
        _print(made, paths)


def _models(given: list[str]) -> dict[str, Path]:
    parts = [text.partition("=") for text in given]
    wrong = [text for text, part in zip(given, parts, strict=True) if not (part[0].strip() and part[2])]
    if wrong:
        raise CogViewError(f"--model {wrong[0]}: write it as NAME=FOLDER")
    twice = [name for name, count in Counter(part[0].strip() for part in parts).items() if count > 1]
    if twice:
        raise CogViewError(f"--model {twice[0]}: the name is there twice")
    return {name.strip(): Path(folder) for name, _, folder in parts}


def _pair(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names):
        raise CogViewError(f"--ab {text}: give the names of two models, FIRST,SECOND")
    return names


def _check_address(host: str, url: str | None) -> None:
    from urllib.parse import urlsplit

    if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise CogViewError(f"--url {url}: expected an address such as https://study.example")
    if url is None and host in ("0.0.0.0", "::"):
        raise CogViewError(f"--host {host} says no name for the links; add --url http://NAME:PORT")


def _print(made: Report, paths: list[Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    from cogview.study.report import model_rows, outcomes
    from cogview.study.schema import SCALES

    table = Table("model", *SCALES, "best", "of")
    for row in model_rows(made.figures, intervals=False):
        table.add_row(*row)
    Console().print(table)
    typer.echo(f"mean ± standard deviation; raters: {outcomes(made.figures)}")
    for path in paths:
        typer.echo(path)
