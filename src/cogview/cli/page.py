"""``cogview page``: a web page that generates in the browser of whoever opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from cogview.cli.options import grouped
from cogview.config import Config, option


class Page(Config):
    """What is written where."""

    out: Path = option(..., "The new folder.", argument=True, metavar="OUT")
    family: str = option("pictogram", "A family's directory or name.", "--model", "-m", metavar="MODEL")
    weights: Literal["fp32", "fp16", "int8"] = option("int8", "How weights are stored.")
    runtime: Path | None = option(
        None,
        "Where onnxruntime-web was installed with npm.",
        shown="it is fetched with npm",
    )


@grouped()
def page(given: Page) -> None:
    """A static folder for any web host: a page that generates in the browser, without a server.

    cogview page site/ --model pictogram

    Look at it: python -m http.server --directory site/
    """
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.errors import CogViewError

    try:
        from cogview.page.writing import write_page
    except ModuleNotFoundError as error:
        raise CogViewError(f"{error.name} is not installed: pip install 'cogview[onnx]'") from error

    family = ModelBundle.find(given.family)
    size = write_page(
        family, given.out, given.weights, given.runtime, lambda part: typer.echo(part, err=True)
    )
    typer.echo(f"{given.out}: a browser loads {size / 1e6:.1f} MB")
