"""Tensor parallelism: each layer's matrices are split among neighbouring ranks (recipe: ``parallel.tensor``).

A plan for ``parallelize_module`` (DTensor), as Megatron-LM splits a layer (Shoeybi et al., 2019) and as the
release was trained and stored: query, key, value and the first feed-forward matrix by rows, so that a rank
has some heads and some hidden units of its own; the two matrices that end a branch by columns, whose partial
results are added up. Embeddings and norms are on every rank. Over what is left of the ranks the model is
replicated or sharded by FSDP2: one mesh of (replicas, shards, tensor).

The matrix of query, key and value is one; its rows are put in another order first, so that a plain part of it
is some heads' query, key and value. Checkpoints hold split matrices whole and in the model's own order, so
that any number of ranks and any kind goes on from them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cogview.errors import CogViewError
from cogview.training.optim import is_sharded, local
from cogview.training.parallel.fsdp import Sharded
from cogview.transformer.block import Block
from cogview.transformer.config import TransformerConfig

FUSED = ("qkv.weight", "qkv.bias")  # what holds query, key and value, one below the other
ENDS = (".out.weight", "decoder_out.weight", "down.weight")  # of branches; their biases are not split
SPLIT = (*FUSED, "up.weight", "up.bias", *ENDS)  # ends of the names of what ranks have parts of


def check_split(config: TransformerConfig, parts: int) -> None:
    """CogViewError where this number of ranks cannot share a layer."""
    for name, size in (
        ("heads", config.heads),
        ("hidden * ffn_multiple", config.hidden * config.ffn_multiple),
    ):
        if size % parts:
            raise CogViewError(f"parallel.tensor: {parts} ranks cannot share model.{name}, {size}, evenly")
    if parts > 1 and config.numerics == "released":
        raise CogViewError(
            "parallel.tensor: numerics released adds up in an order of its own; use fused or written"
        )


class TensorSharded(Sharded):
    """Blocks split over ``parallel.tensor`` neighbours, replicated or sharded over the others."""

    def place(self, model: nn.Module, compile: Callable[[nn.Module], None]) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        blocks = self._blocks(model)
        self._twin = copy.deepcopy(model) if self.ranks.first else None
        replicas, shards = self._shape()
        self.mesh = init_device_mesh(
            self.ranks.device.type,
            (replicas, shards, self.parallel.tensor),
            mesh_dim_names=("replicas", "shards", "tensor"),
        )
        model.to(self.ranks.device)
        for block in blocks:
            self._split(block)
        compile(model)
        self._wrapped = replicas * shards > 1
        if self._wrapped:
            mesh = self.mesh["replicas", "shards"] if replicas > 1 else self.mesh["shards"]
            again = self.parallel.zero == 3 and shards > 1
            for block in blocks:
                fully_shard(block, mesh=mesh, reshard_after_forward=again)
            fully_shard(model, mesh=mesh, reshard_after_forward=False)

    def _shape(self) -> tuple[int, int]:
        """Replicas, and shards of each."""
        there = self.ranks.share[1]
        if self.parallel.kind == "fsdp":
            return 1, there
        replicas = self.parallel.replicas if self.parallel.kind == "hsdp" else there
        return replicas, there // replicas

    def _blocks(self, model: nn.Module) -> list[Block]:
        """The layers to split; CogViewError where they cannot be."""
        parts, blocks = self.parallel.tensor, list(getattr(model, "blocks", []))
        if not blocks or not all(isinstance(block, Block) for block in blocks):
            raise CogViewError("parallel.tensor: this model has no transformer's blocks to split; use 1")
        check_split(cast(TransformerConfig, model.config), parts)
        return blocks

    def _split(self, block: Block) -> None:
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        plan: dict[str, Any] = {"mlp.up": ColwiseParallel(), "mlp.down": RowwiseParallel()}
        for name in ("qkv", "decoder_qkv", "out", "decoder_out"):
            if getattr(block.attention, name) is not None:
                by_rows = name.endswith("qkv")
                plan[f"attention.{name}"] = ColwiseParallel() if by_rows else RowwiseParallel()
        with torch.no_grad():
            for name, value in block.named_parameters():
                if name.endswith(FUSED):
                    value.copy_(self._arranged(value))
        parallelize_module(block, self.mesh["tensor"], plan)
        config, parts = block.attention.config, self.parallel.tensor
        own = {"heads": config.heads // parts, "hidden": config.hidden // parts}
        block.attention.config = config.model_copy(update=own)

    def _arranged(self, whole: Tensor) -> Tensor:
        """Rows of (query, key, value) for all heads in the order (query, key, value) of each rank's heads."""
        return _swapped(whole, 3, self.parallel.tensor)

    def _restored(self, arranged: Tensor) -> Tensor:
        """The model's own order of what :meth:`_arranged` made."""
        return _swapped(arranged, self.parallel.tensor, 3)

    # ------------------------------------------------------------------------------------------ gradients

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """The norm of all; those of weights that all tensor ranks have are made the same to the bit."""
        split, common = ([local(g) for g in gradients if is_split(g) == there] for there in (True, False))
        group, parts = self.mesh["tensor"].get_group(), self.parallel.tensor
        if common:
            flat = torch.cat([gradient.flatten() for gradient in common])
            dist.all_reduce(flat.div_(parts), group=group)
            for gradient, mean in zip(common, torch.split(flat, [g.numel() for g in common]), strict=True):
                gradient.copy_(mean.view_as(gradient))
        norms = [torch.nn.utils.get_total_norm(part) for part in (split, common)]
        square = norms[0] ** 2 + norms[1] ** 2 / parts
        dist.all_reduce(square, group=group)
        dist.all_reduce(square, group=self.mesh["shards"].get_group())
        return square.sqrt()

    def _synchronise(self, last: bool) -> None:
        if self._wrapped:
            super()._synchronise(last)

    def after_eval(self) -> None:
        if self._wrapped:
            super().after_eval()

    # ------------------------------------------------------------------------------------------ whole tensors

    def gathered(self, name: str, value: Tensor) -> Tensor:
        if not is_split(value):
            return super().gathered(name, value)
        from torch.distributed.tensor import DTensor, Shard

        mine, placement = local(value), value.placements[-1]  # type: ignore[attr-defined]
        if self._wrapped:
            size = list(value.shape)
            size[placement.dim] //= self.parallel.tensor
            like = torch.empty(size, device="meta")
            held = DTensor.from_local(
                mine, self.mesh["shards"], [Shard(0)], shape=like.shape, stride=like.stride()
            )
            mine = held.full_tensor()
        found: Tensor = DTensor.from_local(mine, self.mesh["tensor"], [placement]).full_tensor()
        return self._restored(found) if _field(name).endswith(FUSED) else found

    def stored(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for number, (name, value) in enumerate(named.items()):
            if not is_split(value):
                found[name] = value
                continue
            whole = self.gathered(name, value)
            if number % self.ranks.world == self.ranks.rank:
                found[name] = whole.cpu()
        return found

    def blank(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: torch.empty(value.shape, dtype=value.dtype) if is_split(value) else value
            for name, value in named.items()
        }

    def settle(self, named: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> None:
        for name, value in named.items():
            if is_split(value):
                whole = places[name]
                if _field(name).endswith(FUSED):
                    whole = self._arranged(whole)
                local(value).copy_(self._own(whole, value))

    def _own(self, whole: Tensor, place: Tensor) -> Tensor:
        """This rank's part of a split matrix."""
        placement = place.placements[-1]  # type: ignore[attr-defined]
        mine = whole.chunk(self.parallel.tensor, placement.dim)[self.mesh["tensor"].get_local_rank()]
        if self._wrapped:
            shards = mine.chunk(self.mesh["shards"].size())
            number = self.mesh["shards"].get_local_rank()
            mine = shards[number] if number < len(shards) else mine[:0]
        return mine


def _swapped(rows: Tensor, outer: int, inner: int) -> Tensor:
    """Rows in ``outer`` blocks of ``inner`` blocks each, as ``inner`` of ``outer``."""
    blocks = rows.reshape(outer, inner, len(rows) // (outer * inner), *rows.shape[1:])
    return blocks.transpose(0, 1).reshape(rows.shape)


def _field(name: str) -> str:
    """The parameter's name in a checkpoint's ("PHASE/NAME:KEY" for what an optimizer holds)."""
    return name.partition(":")[0]


def is_split(value: Tensor) -> bool:
    """Whether tensor ranks hold parts of it, not all of it."""
    if not is_sharded(value):
        return False
    names = value.device_mesh.mesh_dim_names  # type: ignore[attr-defined]
    return names[-1] == "tensor" and value.placements[-1].is_shard()  # type: ignore[attr-defined, no-any-return]
