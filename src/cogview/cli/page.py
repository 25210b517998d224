"""``cogview page``: write a web page that generates images in the visitor's browser."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from cogview.cli.options import grouped
from cogview.config import Config, option


class Page(Config):
    """The page to write."""

    out: Path = option(..., "The new folder.", argument=True, metavar="OUT")
    family: str = option("pictogram", "A family's directory or name.", "--model", "-m", metavar="MODEL")
    weights: Literal["fp32", "fp16", "int8"] = option("int8", "Precision of the stored weights.")
    runtime: Path | None = option(
        None, "Folder where onnxruntime-web was installed with npm.", shown="downloaded with npm"
    )


@grouped()
def page(args: Page) -> None:
    """Write a static folder for any web host: a page that generates images in the browser, without a server.

    cogview page site/ --model pictogram

    To try it: python -m http.server --directory site/
    """
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.errors import CogViewError

    try:
        from cogview.page.writing import write_page
    except ModuleNotFoundError as error:
        raise CogViewError(f"{error.name} is not installed: pip install 'cogview[onnx]'") from error

    family = ModelBundle.find(args.family)
    size = write_page(family, args.out, args.weights, args.runtime, lambda part: typer.echo(part, err=True))
    typer.echo(f"{args.out}: a browser loads {size / 1e6:.1f} MB")
