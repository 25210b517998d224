"""The engine of a family's transformer."""

from __future__ import annotations

import torch

from cogview.checkpoints.components import Components
from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.sparse import Sparse
from cogview.generation.strategies import STRATEGIES
from cogview.transformer.model import Transformer


def make_engine(
    components: Components,
    model: Transformer,
    rows: slice,
    clusters: torch.Tensor | None = None,
    sparse: Sparse | None = None,
) -> Engine:
    """An engine over a transformer of a family that generates tokens of the vocabulary's ``rows``."""
    decoder = pack(model, rows, components.precision)
    return Engine(
        decoder,
        components.deterministic,
        clusters=clusters,
        sparse=sparse,
        strategy=STRATEGIES[components.decoding],
    )
