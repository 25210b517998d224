"""The transformer of CogView (sections 2.3, 2.4): a GPT over text and image tokens.

* learned absolute positions, given by the caller, so that sequences may count again or leave gaps
* Sandwich-LN, pre- or post-LN; PB-relaxed LayerNorm and attention (``block.py``, ``attention/pattern.py``)
* shrunken embedding gradient, output matrix tied to the embeddings, no output bias
* any visibility (``attention/``), a static K/V cache (``cache.py``)
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
    """``x`` unchanged, its gradient times ``factor`` (section 2.4, "Shrink embedding gradient").

    The paper's ``x * a + x.detach() * (1 - a)``, arranged so that the values are not rounded.
    """
    still = x.detach()
    return still + factor * (x - still)


def _table(rows: int, width: int) -> nn.Embedding:
    """An embedding matrix whose values are drawn later."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


class Transformer(nn.Module):
    """A decoder-only transformer.

    Attributes:
        config: its configuration.
        checkpointing: keep only each layer's input during training and compute the rest again.
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
        if not self.tokens.weight.is_meta:  # where drawing numbers costs a second and makes none
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """N(0, 0.02); what is added to the residual stream N(0, 0.02 / sqrt(2 layers)); biases 0."""
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
            ids: (b, q) int64. With a cache, only the tokens that it does not hold yet.
            positions: (b, q) or (q,) int64.
            visibility: a pattern, or a bool mask (True = seen) of (k, k), (b, k, k) or (b, heads, k, k);
                ``None`` is causal. With a cache it is over all tokens, held and new.
            cache: keys and values are read from it and added to it.
            record: gets the embedded input and the output of every layer, (b, q, h) each, for analysis.

        Returns:
            (b, q, h), of the model's dtype.
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
        """Token and position embeddings added, (b, q, h)."""
        x = self.tokens(ids)
        if self.config.embedding_gradient != 1 and torch.is_grad_enabled():
            x = shrink_gradient(x, self.config.embedding_gradient)
        return F.dropout(x + self._place(positions), self.config.hidden_dropout, self.training)

    def _place(self, positions: Tensor) -> Tensor:
        """Position embeddings, from both tables."""
        if self.extra_positions is None:
            return self.positions(positions)  # type: ignore[no-any-return]
        return F.embedding(positions, torch.cat([self.positions.weight, self.extra_positions.weight]))

    def logits(self, hidden: Tensor, rows: slice | None = None) -> Tensor:
        """Scores of the next token (..., vocab_size), or of the vocabulary's ``rows`` only, from (..., h).

        While an image is drawn only the image codes can come, so only their rows need be multiplied.
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
        """The pattern's view for each layer."""
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
        """Write ``config.json`` and ``model.safetensors`` (floats as ``dtype``), each whole or not at all.

        torch.int8 stores matrices as scaled rows, half the size of float16.
        """
        storage.save(directory, self.config, self.state_dict(), dtype)

    @classmethod
    def inspect(cls, directory: str | Path) -> TransformerConfig:
        """The configuration of a saved model whose weights have the right names and shapes; reads no weight.

        Raises:
            CogViewError: as :meth:`from_directory`.
        """
        config = storage.read_config(directory)
        with storage.open_weights(directory, cls.shapes(config), packed=True):
            return config

    @classmethod
    def shapes(cls, config: TransformerConfig) -> dict[str, Tensor]:
        """Every weight by name, as a tensor that has a shape and no memory."""
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
        """Read a model that ``save`` wrote, in evaluation mode, tensor by tensor onto ``device``.

        layers: dtype of the matrices in the layers and their biases, which are nearly all of a large model
        (default: ``dtype``); embeddings and LayerNorms have ``dtype``.

        Raises:
            CogViewError: a file is missing, damaged, or of another model.
        """
        config = storage.read_config(directory)
        with torch.device("meta"):
            model = cls(config)
        state = storage.read_weights(directory, model.state_dict(), dtype, device, layers)
        model.load_state_dict(state, assign=True)
        return model.eval()
