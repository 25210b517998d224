"""The ``cogview`` command: a table of verbs, each imported only when it is called.

A verb is one file in this package and one line in ``VERBS``. The file exposes a function with typer's
annotations, or a ``typer.Typer`` for a verb with subcommands. ``--help`` imports no PyTorch, as only the
called verb is imported. User errors print one red line and exit with code 2 (3 if training diverged); Ctrl-C
prints one line and exits with 130.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import typer.core
import typer.main

import cogview.threads  # noqa: F401  (starts to measure the machine's load)
from cogview import __version__
from cogview.errors import CogViewError


@dataclass(frozen=True)
class Verb:
    """A verb. target: ``module:attribute`` in ``cogview.cli``; panel: its heading in the help."""

    name: str
    target: str
    summary: str
    panel: str


USE, TRAIN, INSPECT = "Use a model", "Train a model", "Inspect and evaluate"
VERBS = (
    Verb("generate", "generate:generate", "Generate images for a prompt, Chinese or English.", USE),
    Verb("edit", "edit:edit", "Edit part of an image by a prompt.", USE),
    Verb("upscale", "upscale:upscale", "Upscale images, generating the detail they do not show.", USE),
    Verb("caption", "caption:caption", "Describe images, in Chinese or English.", USE),
    Verb("score", "rerank:score", "Score how well texts describe images.", USE),
    Verb("rerank", "rerank:rerank", "Sort images by how well a prompt describes them.", USE),
    Verb("serve", "serve:serve", "Serve models over HTTP, with a studio in the browser.", USE),
    Verb("page", "page:page", "Write a web page that generates in the browser, without a server.", USE),
    Verb("mcp", "mcp:mcp", "Offer models to agents as tools (Model Context Protocol).", USE),
    Verb("models", "models:models", "List the models: name, size, hash, roles, styles.", USE),
    Verb(
        "data", "data:data", "Check a data set; build image caches, text tokenizers and token shards.", TRAIN
    ),
    Verb("train", "train:train", "Train an image tokenizer or a transformer from a recipe.", TRAIN),
    Verb("train-on", "train_on:train_on", "Train a model on your images, in one command.", TRAIN),
    Verb("watch", "watch:watch", "Watch a run: losses, speed, memory, time left.", TRAIN),
    Verb("sweep", "sweep:sweep", "Train a recipe with many settings; show a table of the results.", TRAIN),
    Verb("assemble", "assemble:assemble", "Assemble trained parts into a model.", TRAIN),
    Verb("plan", "plan:plan", "Plan a training run: memory, sharding, speed, days.", TRAIN),
    Verb("import", "imports:imports", "Import published weights safely, as safetensors.", TRAIN),
    Verb(
        "export", "exports:exports", "Export a model for other programs: ONNX, or the released layout.", TRAIN
    ),
    Verb("eval", "eval:evaluate", "Evaluate a model: attribute accuracy, tokenizer fidelity.", INSPECT),
    Verb("report", "report:report", "One HTML page of runs, evaluations and samples.", INSPECT),
    Verb("inspect", "inspects:inspects", "Look inside a model: attention maps, biases, scales.", INSPECT),
    Verb("study", "study:study", "Let people compare images: a blind study in the browser.", INSPECT),
    Verb("doctor", "doctor:doctor", "Check this installation: versions, device, memory, models.", INSPECT),
)

HELP = """Generate images for a prompt, Chinese or English, and train models on your own images.

Generate images with a model of this package:

    cogview generate "a blue monster with round eyes, red background" -n 4 --seed 7 -o out/

Train on your own images, with captions beside them (cat.png and cat.txt) or without:

    cogview train-on my-pictures/ --out models/mine --size tiny

Every verb explains itself: cogview VERB --help."""

MEMORY_MESSAGES = (  # parts of messages of PyTorch, oneDNN, the dynamic linker and the import system
    "out of memory",
    "not enough memory",
    "t allocate memory",
    "failed to map segment",
    "could not create a",
    "bad_alloc",
    "error return without exception set",
)

UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def load(verb: Verb) -> Any:
    """Import a verb's file; returns its click command."""
    module, _, attribute = verb.target.partition(":")
    target = getattr(importlib.import_module(f"cogview.cli.{module}"), attribute)
    if not isinstance(target, typer.Typer):
        function, target = target, typer.Typer(add_completion=False)
        target.command(verb.name)(function)
    command = typer.main.get_command(target)
    command.name = verb.name
    return command


class LazyGroup(typer.core.TyperGroup):
    """A command group that lists its verbs from ``VERBS`` and imports a verb only when it is called."""

    listing = False

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return [verb.name for verb in VERBS]

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        for verb in VERBS:
            if verb.name == cmd_name:
                return self._entry(verb) if self.listing else load(verb)
        return None

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        with self._only_listing():
            super().format_help(ctx, formatter)

    def _entry(self, verb: Verb) -> typer.core.TyperCommand:
        return typer.core.TyperCommand(verb.name, help=verb.summary, rich_help_panel=verb.panel)

    @contextlib.contextmanager
    def _only_listing(self) -> Iterator[None]:
        self.listing = True
        try:
            yield
        finally:
            self.listing = False


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"cogview {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


def fail(message: str) -> None:
    """Print an error as one line on stderr, red on a terminal."""
    line = "error: " + " ".join(message.splitlines())
    colour = None if os.environ.get("NO_COLOR") else typer.colors.RED
    typer.secho(line, fg=colour, err=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, that of an error (2, 3), or 130 for Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape characters that the terminal cannot encode
            stream.reconfigure(errors="backslashreplace")
    command = typer.main.get_command(app)
    try:
        code = command.main(args=arguments, prog_name="cogview", standalone_mode=False)
    except CogViewError as error:
        fail(str(error))
        return error.exit_code
    except UsageError as error:
        return _usage_error(error)
    except ValueError as error:
        if type(error).__name__ != "ValidationError":
            raise
        from cogview.config import explained

        fail(explained(error))  # type: ignore[arg-type]
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except OSError as error:  # such as a full disk, or a folder removed meanwhile
        fail(f"{error.filename or 'input or output'}: {error.strerror or error}")
        return 2
    except (MemoryError, RuntimeError, ImportError, SystemError) as error:
        if not _is_out_of_memory(error):
            raise
        fail("out of memory; close other programs, or use less memory (--max-batch 1, smaller images)")
        return 2
    if code == 130:
        fail("interrupted")
    return code if isinstance(code, int) else 0


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error or one of its causes means that memory ran out."""
    current: BaseException | None = error
    while current is not None:
        message = str(current).lower()
        if isinstance(current, MemoryError) or any(part in message for part in MEMORY_MESSAGES):
            return True
        current = current.__cause__ or current.__context__
    return False


def _usage_error(error: Any) -> int:
    """Print a usage error as one line, or the help if there are no arguments; returns the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.format_message())
        return 0
    path = error.ctx.command_path if error.ctx else "cogview"
    fail(f"{_usage_message(error)} (see {path} --help)")
    return 2


def _usage_message(error: Any) -> str:
    """The error's message; for an unknown command or option with the closest match."""
    message: str = error.format_message().replace(": Value error, ", ": ").rstrip(".")  # pydantic's prefix
    command = error.ctx.command if error.ctx else None
    unknown = re.match(r"No such (command '(?P<command>[^']+)'|option: (?P<option>\S+))", message)
    if unknown is None or command is None:
        return message
    if unknown["command"] is not None:
        word, known = unknown["command"], command.list_commands(error.ctx)
    else:
        word = unknown["option"]
        known = [name for option in command.params for name in (*option.opts, *option.secondary_opts)]
    close = difflib.get_close_matches(word, [name for name in known if len(name) > 2], n=1)
    return unknown[0] + (f"; did you mean {close[0]}?" if close else "")
