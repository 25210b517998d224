"""``cogview assemble``: your runs as a family directory for ``cogview generate``."""

from __future__ import annotations

import typer

from cogview.cli.options import grouped
from cogview.training.assembly_plan import Looks, Parts


@grouped()
def assemble(parts: Parts, looks: Looks) -> None:
    """Put trained parts together as a family.

    A run is named by its directory (runs/mine) or by the model in it (runs/mine/model). Tokenizers other than
    those a model was trained with are refused. A run of an adapter as --base is added to the weights of the
    family in --from; as --lora it stays apart, for cogview generate --lora NAME.

    cogview assemble models/mine --base runs/mine --image-tokenizer runs/tokenizer --text-tokenizer text.model

    cogview assemble models/large --base runs/coglm --role direct=runs/direct --role iterative=runs/iterative
    --tokenizers-of models/mine --clusters 500

    cogview assemble models/ink --from pictogram --base runs/ink --style ink.en=ink --style ink.zh=水墨
    """
    from cogview.training.assembly import assemble_parts

    family = assemble_parts(parts, looks)
    names = ", ".join(family.config.roles)
    typer.echo(f"{family.directory}: {family.config.name} {family.hash[:12]} ({names})")
