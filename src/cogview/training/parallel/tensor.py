"""Tensor parallelism: each layer's matrices are split among neighbouring ranks (recipe: ``parallel.tensor``).

A plan for ``parallelize_module`` (DTensor) that splits a layer as Megatron-LM does (Shoeybi et al., 2019) and
as the release was trained and stored: query, key, value and the first feed-forward matrix by rows, so that a
rank has some of the heads and hidden units; the two matrices that end a branch by columns, with their partial
results summed. Embeddings and norms are on every rank. Across groups the model is replicated or sharded by
FSDP2: one mesh of (replicas, shards, tensor).

Query, key and value share one matrix; its rows are first reordered, so that a contiguous part of it contains
query, key and value of some heads. Checkpoints contain split matrices gathered and in the model's order, so
that they can be loaded on any number of ranks with any kind of parallelism.
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

FUSED = ("qkv.weight", "qkv.bias")  # concatenated rows of query, key and value
ENDS = (".out.weight", "decoder_out.weight", "down.weight")  # of branches; their biases are not split
SPLIT = (*FUSED, "up.weight", "up.bias", *ENDS)  # suffixes of the names of split parameters


def check_split(config: TransformerConfig, parts: int) -> None:
    """Raise CogViewError if a layer cannot be split into this number of parts."""
    for name, size in (
        ("heads", config.heads),
        ("hidden * ffn_multiple", config.hidden * config.ffn_multiple),
    ):
        if size % parts:
            raise CogViewError(f"parallel.tensor: {parts} ranks cannot share model.{name}, {size}, evenly")
    if parts > 1 and config.numerics == "released":
        raise CogViewError(
            "parallel.tensor: numerics released needs its own order of summation; use fused or written"
        )


class TensorSharded(Sharded):
    """Blocks split over ``parallel.tensor`` neighbours, replicated or sharded over their groups."""

    def place(self, model: nn.Module, compile: Callable[[nn.Module], None]) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        blocks = self._blocks(model)
        self._full_copy = copy.deepcopy(model) if self.ranks.first else None
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
            reshard = self.parallel.zero == 3 and shards > 1
            for block in blocks:
                fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
            fully_shard(model, mesh=mesh, reshard_after_forward=False)

    def _shape(self) -> tuple[int, int]:
        """The numbers of replicas and of shards of each replica."""
        groups = self.ranks.share[1]
        if self.parallel.kind == "fsdp":
            return 1, groups
        replicas = self.parallel.replicas if self.parallel.kind == "hsdp" else groups
        return replicas, groups // replicas

    def _blocks(self, model: nn.Module) -> list[Block]:
        """The layers to split; raises CogViewError if they cannot be split."""
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
                    value.copy_(self._reordered(value))
        parallelize_module(block, self.mesh["tensor"], plan)
        config, parts = block.attention.config, self.parallel.tensor
        local_sizes = {"heads": config.heads // parts, "hidden": config.hidden // parts}
        block.attention.config = config.model_copy(update=local_sizes)

    def _reordered(self, rows: Tensor) -> Tensor:
        """Reorder rows from (query, key, value) of all heads to (query, key, value) of each rank's heads."""
        return _transpose_blocks(rows, 3, self.parallel.tensor)

    def _restored(self, reordered: Tensor) -> Tensor:
        """The inverse of :meth:`_reordered`."""
        return _transpose_blocks(reordered, self.parallel.tensor, 3)

    # ------------------------------------------------------------------------------------------ gradients

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """The global norm; also averages gradients of unsplit weights over tensor ranks, to be identical."""
        split, common = ([local(g) for g in gradients if is_split(g) == s] for s in (True, False))
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

    # ------------------------------------------------------------------------------------------ gathering

    def gather(self, name: str, value: Tensor) -> Tensor:
        if not is_split(value):
            return super().gather(name, value)
        from torch.distributed.tensor import DTensor, Shard

        part, placement = local(value), value.placements[-1]  # type: ignore[attr-defined]
        if self._wrapped:
            size = list(value.shape)
            size[placement.dim] //= self.parallel.tensor
            like = torch.empty(size, device="meta")
            sharded = DTensor.from_local(
                part, self.mesh["shards"], [Shard(0)], shape=like.shape, stride=like.stride()
            )
            part = sharded.full_tensor()
        full: Tensor = DTensor.from_local(part, self.mesh["tensor"], [placement]).full_tensor()
        return self._restored(full) if _parameter_name(name).endswith(FUSED) else full

    def to_checkpoint(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors = {}
        for number, (name, value) in enumerate(named.items()):
            if not is_split(value):
                tensors[name] = value
                continue
            full = self.gather(name, value)
            if number % self.ranks.world == self.ranks.rank:
                tensors[name] = full.cpu()
        return tensors

    def load_buffers(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: torch.empty(value.shape, dtype=value.dtype) if is_split(value) else value
            for name, value in named.items()
        }

    def from_buffers(self, named: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        for name, value in named.items():
            if is_split(value):
                full = buffers[name]
                if _parameter_name(name).endswith(FUSED):
                    full = self._reordered(full)
                local(value).copy_(self._local_part(full, value))

    def _local_part(self, full: Tensor, like: Tensor) -> Tensor:
        """This rank's part of a split matrix; ``like`` has its placement."""
        placement = like.placements[-1]  # type: ignore[attr-defined]
        part = full.chunk(self.parallel.tensor, placement.dim)[self.mesh["tensor"].get_local_rank()]
        if self._wrapped:
            shards = part.chunk(self.mesh["shards"].size())
            number = self.mesh["shards"].get_local_rank()
            part = shards[number] if number < len(shards) else part[:0]
        return part


def _transpose_blocks(rows: Tensor, outer: int, inner: int) -> Tensor:
    """Reorder rows from ``outer`` blocks of ``inner`` blocks each to ``inner`` blocks of ``outer``."""
    blocks = rows.reshape(outer, inner, len(rows) // (outer * inner), *rows.shape[1:])
    return blocks.transpose(0, 1).reshape(rows.shape)


def _parameter_name(name: str) -> str:
    """The parameter's name in a checkpoint key ("PHASE/NAME:KEY" for optimizer states)."""
    return name.partition(":")[0]


def is_split(value: Tensor) -> bool:
    """Whether each tensor rank holds a part of a tensor, not all of it."""
    if not is_sharded(value):
        return False
    names = value.device_mesh.mesh_dim_names  # type: ignore[attr-defined]
    return names[-1] == "tensor" and value.placements[-1].is_shard()  # type: ignore[attr-defined, no-any-return]
