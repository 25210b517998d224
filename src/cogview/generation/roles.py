"""The models of a family, each read when it is first used; a family may lack any of the roles."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cogview.errors import CogViewError
from cogview.family import Family
from cogview.generation.engine import Engine
from cogview.generation.linear import Precision, layers_dtype
from cogview.generation.sparse import Sparse
from cogview.generation.step import pack
from cogview.sequences import SequenceFormat
from cogview.transformer.model import Transformer

BASE, CAPTION, UPSCALING = "base", "caption", "super_resolution"
KINDS = {BASE: "text_to_image", CAPTION: "image_to_text"}
DOES = {BASE: "draw", CAPTION: "describe pictures"}


@dataclass(frozen=True)
class Roles:
    """How a family's models are computed; :meth:`engine` reads one."""

    family: Family
    device: torch.device
    precision: Precision
    deterministic: bool

    def form(self, role: str) -> SequenceFormat:
        """The sequences of ``base`` or ``caption``; CogViewError for a missing or another role."""
        name, form = self.family.config.name, self.family.role(role).sequences
        if form.kind != KINDS[role]:
            raise CogViewError(f"the {role} role of {name} does not {DOES[role]} ({form.kind})")
        assert isinstance(form, SequenceFormat)
        return form

    def check(self) -> None:
        """CogViewError for a role whose files are damaged or of another model; no weight is read."""
        for role in self.family.config.roles:
            self.family.check(role)
            if role in KINDS:
                self.form(role)

    def engine(self, role: str, rows: slice) -> Engine:
        """A role's model, ready to give tokens of the vocabulary's ``rows``."""
        return self.pack(self.transformer(role), rows)

    def transformer(self, role: str) -> Transformer:
        """A role's model, read onto the device in the precision asked for."""
        return self.family.transformer(role, self.device, layers_dtype(self.precision))

    def pack(self, model: Transformer, rows: slice, sparse: Sparse | None = None) -> Engine:
        """A model in memory as an engine, computed as all of them are; ``sparse``: with which attention."""
        return Engine(pack(model, rows, self.precision), self.deterministic, sparse=sparse)
