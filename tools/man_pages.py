"""Manual pages of every verb, from the same texts as ``--help``.

    python tools/man_pages.py build/man

Writes ``cogview.1``, ``cogview-generate.1``, ``cogview-eval-things.1`` and so on. `make dist` puts them into
the wheel.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from cogview import __version__
from cogview.cli.app import app


def escaped(text: str) -> str:
    """Text for roff: no line is taken for a request, hyphens of options stay hyphens."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").splitlines()
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in lines)


def paragraphs(text: str) -> str:
    """A help text: indented lines are examples, empty ones begin a paragraph."""
    parts = []
    for part in re.split(r"\n\s*\n", text.strip()):
        if part.startswith("    "):
            parts.append(f".PP\n.RS 4\n.nf\n{escaped(part.strip())}\n.fi\n.RE")
        else:
            parts.append(f".PP\n{escaped(' '.join(part.split()))}")
    return "\n".join(parts)


def options(command: Any, context: Any) -> Iterator[str]:
    """One entry for each option and argument."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:
            continue
        name, told = record
        yield f".TP\n\\fB{escaped(' '.join(name.split()))}\\fR\n{escaped(' '.join(told.split()))}"


def page(command: Any, context: Any, below: list[str]) -> str:
    """The page of a command. below: the names of its own commands."""
    name = context.command_path.replace(" ", "-")
    summary = command.get_short_help_str(limit=200).rstrip(".")
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [
        f'.TH "{name.upper()}" "1" "" "cogview {__version__}" "cogview manual"',
        f".SH NAME\n{escaped(name)} \\- {escaped(summary)}",
        f".SH SYNOPSIS\n\\fB{escaped(context.command_path)}\\fR {escaped(usage)}",
        f".SH DESCRIPTION\n{paragraphs(command.help or summary)}",
    ]
    own = "\n".join(options(command, context))
    parts += [f".SH OPTIONS\n{own}"] if own else []
    if below:
        pages = ", ".join(f"\\fB{escaped(one)}\\fR(1)" for one in below)
        parts.append(f".SH SEE ALSO\n{pages}")
    return "\n".join(parts) + "\n"


def pages(command: Any, name: str, parent: Any = None) -> Iterator[tuple[str, str]]:
    """Names and pages of a command and of those below it."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    below = [
        (one, command.get_command(context, one))
        for one in getattr(command, "list_commands", lambda _: [])(context)
    ]
    title = context.command_path.replace(" ", "-")
    yield title, page(command, context, [f"{title}-{one}" for one, _ in below])
    for one, target in below:
        yield from pages(target, one, context)


def main() -> None:
    """Write all pages."""
    parser = argparse.ArgumentParser(description="Write manual pages.")
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for title, text in pages(typer.main.get_command(app), "cogview"):
        (out / f"{title}.1").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
