"""The transformer of CogView (sections 2.3, 2.4): a GPT over text and image tokens.

* learned absolute positions, passed by the caller, so that positions may restart or leave gaps
* Sandwich-LN, pre-LN or post-LN; PB-relaxed LayerNorm and attention (``block.py``, ``attention/pattern.py``)
* shrunken embedding gradient, output matrix tied to the embeddings, no output bias
* any attention pattern (``attention/``), a static K/V cache (``cache.py``)
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cogview.transformer import storage
from cogview.transformer.attention import Causal, Dense, View, Visibility
from cogview.transformer.block import Block, make_norm
from cogview.transformer.cache import KVCache
from cogview.transformer.config import TransformerConfig

__all__ = ["KVCache", "Transformer", "TransformerConfig", "Visibility"]

INITIAL_STD = 0.02


def shrink_gradient(x: Tensor, factor: float) -> Tensor:
    """``x`` with its gradient multiplied by ``factor`` (section 2.4, "Shrink embedding gradient").

    The paper's ``x * a + x.detach() * (1 - a)``, rearranged so that the values are not rounded.
    """
    detached = x.detach()
    return detached + factor * (x - detached)


def _table(rows: int, width: int) -> nn.Embedding:
    """An uninitialized embedding matrix."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


class Transformer(nn.Module):
    """A decoder-only transformer.

    Attributes:
        config: its configuration.
        checkpointing: activation checkpointing: during training, keep only each layer's input and recompute
            the rest.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        self.tokens = _table(config.vocab_size, config.hidden)
        self.positions = _table(config.max_positions, config.hidden)
        self.extra_positions = (
            _table(config.extra_positions, config.hidden) if config.extra_positions else None
        )
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = nn.Identity() if config.norm == "post" else make_norm(config)
        if not self.tokens.weight.is_meta:  # sampling on the meta device takes a second for nothing
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights N(0, 0.02), output weights of the branches N(0, 0.02 / sqrt(2 layers)); biases 0."""
        for name, parameter in self.named_parameters():
            if name.endswith((".out.weight", ".decoder_out.weight", ".down.weight")):
                nn.init.normal_(parameter, std=INITIAL_STD / math.sqrt(2 * self.config.layers))
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=INITIAL_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                ends_branch = name.endswith("norm_out.weight") and self.config.norm == "sandwich"
                nn.init.constant_(parameter, self.config.branch_gain if ends_branch else 1.0)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        visibility: Visibility | Tensor | None = None,
        cache: KVCache | None = None,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """Hidden states after the last LayerNorm.

        Args:
            ids: (b, q) int64. With a cache, only the tokens that are not cached yet.
            positions: (b, q) or (q,) int64.
            visibility: an attention pattern, or a bool mask (True = visible) of shape (k, k), (b, k, k) or
                (b, heads, k, k); ``None`` is causal. With a cache it covers all tokens, cached and new.
            cache: keys and values are read from it and added to it.
            record: receives the embedded input and the output of every layer, (b, q, h) each, for analysis.

        Returns:
            (b, q, h), in the model's dtype.
        """
        x = self.embed(ids, positions)
        if record is not None:
            record.append(x)
        views = self._views(visibility, ids.shape[1], cache, x.device)
        for block, view in zip(self.blocks, views, strict=True):
            if self.checkpointing and self.training and cache is None and torch.is_grad_enabled():
                x = checkpoint(block, x, view, use_reentrant=False)
            else:
                x = block(x, view, cache)
            if record is not None:
                record.append(x)
        if cache is not None:
            cache.advance(ids.shape[1])
        return self.norm(x)  # type: ignore[no-any-return]

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """The sum of token and position embeddings, (b, q, h)."""
        x = self.tokens(ids)
        if self.config.embedding_gradient != 1 and torch.is_grad_enabled():
            x = shrink_gradient(x, self.config.embedding_gradient)
        return F.dropout(x + self._embed_positions(positions), self.config.hidden_dropout, self.training)

    def _embed_positions(self, positions: Tensor) -> Tensor:
        """Position embeddings from both tables."""
        if self.extra_positions is None:
            return self.positions(positions)  # type: ignore[no-any-return]
        return F.embedding(positions, torch.cat([self.positions.weight, self.extra_positions.weight]))

    def logits(self, hidden: Tensor, rows: slice | None = None) -> Tensor:
        """Logits of the next token (..., vocab_size), or only of the vocabulary's ``rows``, from (..., h).

        While an image is generated, only the rows of the image codes are needed.
        """
        weight = self.tokens.weight
        return F.linear(hidden, weight if rows is None else weight[rows])

    def _views(
        self,
        visibility: Visibility | Tensor | None,
        queries: int,
        cache: KVCache | None,
        device: torch.device,
    ) -> list[View]:
        """The pattern's mask view for each layer."""
        if visibility is None:
            visibility = Causal()
        elif isinstance(visibility, Tensor):
            visibility = Dense(visibility)
        keys = queries + (cache.length if cache is not None else 0)
        make = visibility.view if self.config.numerics == "fused" else visibility.dense_view
        if visibility.varies_by_layer:
            return [make(queries, keys, device, layer) for layer in range(self.config.layers)]
        return [make(queries, keys, device)] * self.config.layers

    def save(self, directory: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write ``config.json`` and ``model.safetensors`` (in ``dtype``), each atomically.

        torch.int8 stores matrices as int8 rows with scales, half the size of float16.
        """
        storage.save(directory, self.config, self.state_dict(), dtype)

    @classmethod
    def inspect(cls, directory: str | Path) -> TransformerConfig:
        """Read the configuration of a saved model and check the names and shapes of its weights.

        Raises:
            CogViewError: as :meth:`from_directory`.
        """
        config = storage.read_config(directory)
        with storage.open_weights(directory, cls.shapes(config), packed=True):
            return config

    @classmethod
    def shapes(cls, config: TransformerConfig) -> dict[str, Tensor]:
        """All weights by name, as tensors on the meta device."""
        with torch.device("meta"):
            return cls(config).state_dict()

    @classmethod
    def from_directory(
        cls,
        directory: str | Path,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        layers: torch.dtype | None = None,
    ) -> Transformer:
        """Load a model that ``save`` wrote, in evaluation mode, tensor by tensor onto ``device``.

        layers: dtype of the layers' matrices and biases, which are nearly all of a large model (default:
        ``dtype``); embeddings and LayerNorms have ``dtype``.

        Raises:
            CogViewError: a file is missing, damaged, or belongs to another model.
        """
        config = storage.read_config(directory)
        with torch.device("meta"):
            model = cls(config)
        state = storage.read_weights(directory, model.state_dict(), dtype, device, layers)
        model.load_state_dict(state, assign=True)
        return model.eval()
