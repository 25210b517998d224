"""``--max-batch``: how many pictures at a time, and the memory that takes."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from cogview.errors import CogViewError

AUTO = "auto"

MaxBatch = Annotated[
    str | None,
    typer.Option(
        "--max-batch",
        "--batch-size",
        metavar="N|auto",
        help="Pictures at a time; auto: what fits, and tell the plan.",
        show_default="what fits",
    ),
]


class _Lines(logging.Handler):
    """What drawing has to say about memory, on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(record.getMessage(), err=True)


def batch_limit(text: str | None) -> int | None:
    """The most at a time, None for what fits; with ``auto`` every plan is told from here on.

    Raises:
        CogViewError: neither a number from 1 nor ``auto``.
    """
    _listen(text == AUTO)
    if text is None or text == AUTO:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise CogViewError(f"--max-batch {text}: give a number from 1, or {AUTO}")
    return int(text)


def _listen(to_plans: bool) -> None:
    """Batches that were halved are always told, plans where they are asked for."""
    log = logging.getLogger("cogview.generation")
    log.handlers = [_Lines()]
    log.setLevel(logging.INFO if to_plans else logging.WARNING)
