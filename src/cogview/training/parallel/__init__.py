"""Parallel training on many processes, implemented outside of the model and the task.

=========== =============================================== ========================================
kind        each rank holds                                 implementation
=========== =============================================== ========================================
``ddp``     everything; gradients are averaged              ``DistributedDataParallel``
``fsdp``    a shard of weights, gradients and optimizer     FSDP2, ``fully_shard`` per block
``hsdp``    as ``fsdp`` among neighbours, in ``replicas``   FSDP2 on a mesh of two dimensions
            copies
``deepspeed`` a shard, by DeepSpeed's ZeRO                  ``deepspeed.py``
=========== =============================================== ========================================

``zero: 3`` frees a block's weights after its forward pass and gathers them again for the backward pass
(ZeRO-3), ``zero: 2`` keeps them in between (ZeRO-2); ``zero: 1`` (only DeepSpeed, as CogView was released)
shards only the optimizer states. ``tensor``: each layer is split among this number of neighbours, with any of
these except DeepSpeed (``tensor.py``).

A micro-batch is distributed row by row, so the global batch size is the recipe's for any number of ranks. The
loss is a mean over the global batch: a rank's loss is weighted by the weight of its tokens
(``Task.loss_weights``), which is first summed over ranks. So N ranks follow the curve of one, up to rounding.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cogview.config import Config

Kind = Literal["none", "ddp", "fsdp", "hsdp", "deepspeed"]
MIN_MINUTES = 0.01


class Parallel(Config):
    """Parallelism of a run; on one process every kind is equivalent to ``none``.

    ``zero``: for fsdp and hsdp, 2 or 3; for deepspeed also 1. ``replicas``: for hsdp, the number of copies of
    the model; each is sharded over ranks / replicas neighbours. ``tensor``: the number of neighbours that
    share every layer and the same rows of a batch; the other fields then refer to ranks / tensor groups, and
    kind may be none if there is only one. ``sync``: gradients are exchanged at the ``last`` micro-batch of an
    update, or at ``every`` micro-batch, which needs less memory under ZeRO and more bandwidth. ``minutes``:
    timeout of a rank that waits for another.
    """

    kind: Kind = "none"
    zero: Literal[1, 2, 3] = 3
    replicas: int = Field(1, ge=1)
    tensor: int = Field(1, ge=1)
    sync: Literal["last", "every"] = "last"
    minutes: float = Field(30.0, ge=MIN_MINUTES)

    @model_validator(mode="after")
    def _belongs(self) -> Self:
        if self.replicas != 1 and self.kind != "hsdp":
            raise ValueError(f"replicas is for hsdp, but kind is {self.kind}")
        if self.replicas == 1 and self.kind == "hsdp":
            raise ValueError("hsdp needs replicas, 2 or more; one replica is fsdp")
        if self.zero == 1 and self.kind != "deepspeed":
            raise ValueError(f"zero 1 is for deepspeed, but kind is {self.kind}")
        if self.zero == 2 and self.kind in ("none", "ddp"):
            raise ValueError(f"zero 2 is for fsdp, hsdp and deepspeed, but kind is {self.kind}")
        if self.sync == "every" and self.kind == "none":
            raise ValueError("sync is for ddp, fsdp, hsdp and deepspeed, but kind is none")
        if self.tensor > 1 and self.kind == "deepspeed":
            raise ValueError("tensor does not work with deepspeed; use ddp, fsdp or hsdp")
        return self
