"""Training one model on many processes, from outside: the model and the task know nothing of it.

=========== =============================================== ========================================
kind        what each rank holds                            by
=========== =============================================== ========================================
``ddp``     everything; gradients are averaged              ``DistributedDataParallel``
``fsdp``    its share of weights, gradients and optimizer   FSDP2, ``fully_shard`` block by block
``hsdp``    as ``fsdp`` among neighbours, ``replicas``      FSDP2 on a mesh of two dimensions
            times over
``deepspeed`` its share, by DeepSpeed's ZeRO                ``deepspeed.py``
=========== =============================================== ========================================

``zero: 3`` gives up a block's weights after its forward pass and gathers them again for the backward pass
(ZeRO-3), ``zero: 2`` keeps them in between (ZeRO-2); ``zero: 1`` (DeepSpeed's, as CogView was released)
shards the optimizer alone. ``tensor``: each layer is split among this number of neighbours, within any of
these but DeepSpeed (``tensor.py``).

A micro-batch is shared out row by row, so the global batch is the recipe's whatever the number of ranks. The
loss is a mean over the global batch: a rank's loss counts by the weight of its tokens
(``Task.loss_weights``), which the ranks add up first. So N ranks follow the curve of one, to rounding.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cogview.config import Config

Kind = Literal["none", "ddp", "fsdp", "hsdp", "deepspeed"]
MIN_MINUTES = 0.01


class Parallel(Config):
    """How a run is spread over processes; on one process every kind trains as ``none`` does.

    ``zero``: for fsdp and hsdp, 2 or 3; for deepspeed 1 as well. ``replicas``: for hsdp, how many times the
    model is held; each replica is sharded over ranks / replicas neighbours. ``tensor``: the number of
    neighbours that share every layer and the same rows of a batch; the other fields are about what is left of
    the ranks, and kind may be none where nothing is. ``sync``: when gradients are exchanged, at the ``last``
    micro-batch of an update, or at ``every`` one, which needs less memory under ZeRO and more network.
    ``minutes``: how long a rank waits for another before it gives up.
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
            raise ValueError("sync is of ddp, fsdp, hsdp and deepspeed, but kind is none")
        if self.tensor > 1 and self.kind == "deepspeed":
            raise ValueError("tensor does not go with deepspeed; use ddp, fsdp or hsdp")
        return self
