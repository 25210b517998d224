"""``cogview assemble``: combine runs into a family directory for ``cogview generate``."""

from __future__ import annotations

import typer

from cogview.cli.options import grouped
from cogview.training.assembly_plan import Looks, Parts


@grouped()
def assemble(parts: Parts, looks: Looks) -> None:
    """Assemble trained parts into a family.

    Give a run's directory (runs/mine) or the model in it (runs/mine/model). A model can only be assembled
    with the tokenizers that it was trained with. An adapter given as --base is merged into the weights of the
    family in --from; given as --lora it is stored separately, for cogview generate --lora NAME.

    cogview assemble models/mine --base runs/mine --image-tokenizer runs/tokenizer --text-tokenizer text.model

    cogview assemble models/large --base runs/coglm --role direct=runs/direct --role iterative=runs/iterative
    --tokenizers-of models/mine --clusters 500

    cogview assemble models/ink --from pictogram --base runs/ink --style ink.en=ink --style ink.zh=水墨
    """
    from cogview.training.assembly import assemble_parts

    family = assemble_parts(parts, looks)
    names = ", ".join(family.config.roles)
    typer.echo(f"{family.directory}: {family.config.name} {family.hash[:12]} ({names})")
