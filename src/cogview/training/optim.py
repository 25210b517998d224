"""Optimizers: AdamW with the papers' parameter groups, and Muon for hidden matrices with AdamW for the rest.

AdamW: beta (0.9, 0.95), weight decay 4e-2 (CogView, section 2.3), none on norms and biases (the released
code).

Muon (K. Jordan et al., 2024) replaces the momentum of a matrix by the nearest semi-orthogonal matrix,
computed with a quintic Newton-Schulz iteration. Here each step has its own polynomial, fitted to the range
that the previous step leaves ("The Polar Express", Amsel et al., 2025), and the first step divides by a bound
that is tighter than the Frobenius norm; so four steps are as accurate as five of Jordan's.
``torch.optim.Muon`` always computes in bfloat16, which on a CPU without fast bfloat16 products is about a
hundred times slower than fp32. This implementation computes in bfloat16 on a GPU, and on a CPU if bfloat16
products were measured to be faster and the run is in half precision; otherwise in fp32. Matrices of the same
shape are batched.

Under FSDP parameters are DTensors, of which a rank holds some rows. AdamW updates those; Muon gathers a
matrix's momentum, since orthogonalization depends on all rows, and updates the rank's rows.

In all-fp16 training (``precision: fp16-o2``) optimizers update fp32 master copies of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Discriminator, Field, Tag
from torch import Tensor, nn

from cogview.config import Config
from cogview.transformer.processor import multiplies_bf16

# a x + b x^3 + c x^5 with the least |p(x) - 1| on [0.003, 1], on the range of the first, and so on, each
# range widened by MARGIN at both ends; together they map [0.003, 1] to [0.755, 1.245]
QUINTICS = (
    (8.2242, -23.3561, 16.6408),
    (3.9811, -2.8519, 0.5182),
    (3.5088, -2.5350, 0.4856),
    (2.5683, -1.8526, 0.4181),
)
CLASSICAL = (1.875, -1.25, 0.375)  # for all further steps: converges to 1 from either side
MARGIN = 1.02  # for rounding in bfloat16: beyond their ranges the polynomials grow fast
Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]


class AdamWConfig(Config):
    """AdamW for all parameters."""

    kind: Literal["adamw"] = "adamw"
    lr: float = Field(3e-4, gt=0)
    betas: Betas = (0.9, 0.95)
    weight_decay: float = Field(4e-2, ge=0)
    epsilon: float = Field(1e-8, gt=0)


class MuonConfig(Config):
    """Muon for hidden matrices; AdamW (``adam_lr``, ``betas``, ``epsilon``) for embeddings, norms and biases.

    With ``scale: rms`` an update has a root mean square of 0.2 * ``lr``, as in AdamW, so that AdamW's
    learning rates can be used (Liu et al., 2025); ``scale: spectral`` is the original sqrt(max(1, rows /
    columns)), for rates near 0.02. ``steps``: of the iteration. ``split`` divides matrices whose name ends in
    a key into this number of row blocks, which are orthogonalised separately (fused query-key-value
    projections).
    """

    kind: Literal["muon"]
    lr: float = Field(1e-3, gt=0)
    adam_lr: float | None = Field(None, gt=0)
    momentum: float = Field(0.95, ge=0, lt=1)
    nesterov: bool = True
    scale: Literal["rms", "spectral"] = "rms"
    steps: int = Field(4, ge=1)
    split: dict[str, int] = Field(default_factory=lambda: {"qkv.weight": 3})
    betas: Betas = (0.9, 0.95)
    weight_decay: float = Field(4e-2, ge=0)
    epsilon: float = Field(1e-8, gt=0)


def _kind(value: Any) -> str:
    return (
        str(value.get("kind", "adamw")) if isinstance(value, dict) else str(getattr(value, "kind", "adamw"))
    )


AnyOptimizer = AdamWConfig | MuonConfig
OptimizerConfig = Annotated[
    Annotated[AdamWConfig, Tag("adamw")] | Annotated[MuonConfig, Tag("muon")], Discriminator(_kind)
]


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a DTensor, sharing its memory; any other tensor unchanged."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, without importing torch.distributed."""
    return hasattr(tensor, "to_local")


# ---------------------------------------------------------------------------------------------- Muon


def orthogonalise(matrices: Tensor, steps: int = 4, dtype: torch.dtype | None = None) -> Tensor:
    """Approximate the nearest semi-orthogonal matrices (n, rows, columns): U S V' becomes U p(S) V', p(S) ~
    1.

    X becomes a X + (b G + c G^2) X with G = X X', ``steps`` times. The first step also divides by
    |G^2|^(1/4), which is the eighth root of the sum of the singular values' eighth powers. Computed in
    ``dtype`` (None: fp32 on a CPU, else bfloat16).
    """
    x = matrices.to(dtype or (torch.float32 if matrices.device.type == "cpu" else torch.bfloat16))
    wide = x if x.shape[-2] <= x.shape[-1] else x.mT
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for step in range(steps):
        a, b, c = QUINTICS[step] if step < len(QUINTICS) else CLASSICAL
        gram = wide @ wide.mT  # (n, small, small)
        square = gram @ gram
        if step == 0:
            bound = MARGIN * square.float().norm(dim=(-2, -1), keepdim=True).clamp(min=1e-28) ** 0.25
            wide, gram, square = (
                (t / bound**power).to(t.dtype) for t, power in ((wide, 1), (gram, 2), (square, 4))
            )
        wide = torch.baddbmm(wide, gram.mul_(b).add_(square, alpha=c), wide, beta=a)
    return (wide if x.shape[-2] <= x.shape[-1] else wide.mT).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for 2-D parameters, given as (name, parameter), with decoupled weight decay as in AdamW.

    ``half``: use bfloat16 on a CPU as well, if it is faster there.
    """

    def __init__(
        self, matrices: Iterable[tuple[str, nn.Parameter]], config: MuonConfig, half: bool = False
    ) -> None:
        named = list(matrices)
        self.config = config
        self.dtype = torch.bfloat16 if half and multiplies_bf16() else None
        self.parts = {parameter: _parts(name, config.split) for name, parameter in named}
        super().__init__([parameter for _, parameter in named], {"lr": config.lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            stacks: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None and is_sharded(parameter):
                    self._update_sharded(parameter, group["lr"])
                elif parameter.grad is not None:
                    momentum = self._momentum(parameter)
                    parts = self.parts[parameter]
                    for weight, part in zip(
                        parameter.detach().chunk(parts), momentum.chunk(parts), strict=True
                    ):
                        stacks.setdefault(tuple(weight.shape), []).append((weight, part))
            for pairs in stacks.values():
                self._update(pairs, group["lr"])

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        gradient = local(gradient)
        buffer = local(state["momentum"]).lerp_(gradient, 1 - self.config.momentum)
        return gradient.lerp(buffer, self.config.momentum) if self.config.nesterov else buffer

    def _update(self, pairs: list[tuple[Tensor, Tensor]], lr: float) -> None:
        weights, directions = [weight for weight, _ in pairs], torch.stack([part for _, part in pairs])
        updates = orthogonalise(directions, self.config.steps, self.dtype)
        torch._foreach_mul_(weights, 1 - lr * self.config.weight_decay)
        torch._foreach_add_(weights, list(updates.unbind(0)), alpha=-lr * self._scale(*directions.shape[-2:]))

    def _scale(self, rows: int, columns: int) -> float:
        if self.config.scale == "rms":
            return float(0.2 * max(rows, columns) ** 0.5)
        return float(max(1.0, rows / columns) ** 0.5)

    def _update_sharded(self, parameter: nn.Parameter, lr: float) -> None:
        """Gather the direction of a sharded matrix, and update the rows of this rank."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        sharded = cast(DTensor, parameter)
        mesh, placements = sharded.device_mesh, sharded.placements
        direction = DTensor.from_local(
            self._momentum(parameter), mesh, placements, shape=sharded.shape, stride=sharded.stride()
        )
        parts = torch.stack(direction.full_tensor().chunk(self.parts[parameter]))
        update = orthogonalise(parts, self.config.steps, self.dtype).flatten(0, 1)
        part = distribute_tensor(update, mesh, placements, src_data_rank=None)
        weight = local(parameter.detach())
        weight.mul_(1 - lr * self.config.weight_decay)
        weight.add_(local(part), alpha=-lr * self._scale(*parts.shape[-2:]))


def _parts(name: str, split: Mapping[str, int]) -> int:
    return next((parts for ending, parts in split.items() if name.endswith(ending)), 1)


# ---------------------------------------------------------------------------------------------- groups


def hidden_matrices(model: nn.Module) -> set[int]:
    """The ``id`` of every 2-D parameter that is not an embedding."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return {id(p) for p in model.parameters() if p.ndim == 2 and id(p) not in embeddings}


class PhaseOptimizer:
    """The optimizers of one phase as one: learning rates by factor, state by parameter name.

    ``parameters``: the phase's (name, parameter) pairs; ``matrices``: the ids of those that Muon optimizes;
    ``half``: the run is in half precision. ``masters``: the optimizers update fp32 copies of the parameters,
    and :meth:`publish` rounds them to the parameters' dtype. The attribute ``updated`` holds these copies, or
    else the parameters themselves.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        config: AdamWConfig | MuonConfig,
        matrices: set[int],
        half: bool = False,
        masters: bool = False,
    ) -> None:
        self.parameters = self.updated = dict(parameters)
        if masters:
            self.updated = {
                name: nn.Parameter(value.detach().float()) for name, value in self.parameters.items()
            }
            matrices = {
                id(self.updated[name]) for name, value in self.parameters.items() if id(value) in matrices
            }
        self.optimizers = list(self._make(config, matrices, half))
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def _make(self, config: AnyOptimizer, matrices: set[int], half: bool) -> Iterator[torch.optim.Optimizer]:
        rest = self.updated
        lr = config.lr
        if isinstance(config, MuonConfig):
            hidden = {name: value for name, value in rest.items() if id(value) in matrices}
            rest = {name: value for name, value in rest.items() if name not in hidden}
            lr = config.adam_lr or config.lr
            if hidden:
                yield Muon(hidden.items(), config, half)
        decayed = [value for value in rest.values() if value.ndim >= 2]
        undecayed = [value for value in rest.values() if value.ndim < 2]
        groups = [
            {"params": values, "weight_decay": decay}
            for parameters, decay in ((decayed, config.weight_decay), (undecayed, 0.0))
            for values in _by_mesh(parameters)
        ]
        if groups:
            yield torch.optim.AdamW(groups, lr=lr, betas=config.betas, eps=config.epsilon, fused=True)

    def set_rate(self, factor: float) -> float:
        """Set every learning rate to ``factor`` times its peak; returns the first."""
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        return float(self.optimizers[0].param_groups[0]["lr"])

    def zero_grad(self) -> None:
        """Reset the gradients."""
        for parameter in (*self.parameters.values(), *self.updated.values()):
            parameter.grad = None

    @property
    def has_masters(self) -> bool:
        """Whether fp32 copies of the parameters are updated."""
        return self.updated is not self.parameters

    def collect(self) -> None:
        """Accumulate the parameters' gradients in their fp32 masters, if any."""
        for name, parameter in self.parameters.items() if self.has_masters else ():
            gradient, parameter.grad, master = parameter.grad, None, self.updated[name]
            if gradient is not None:
                master.grad = gradient.float() if master.grad is None else master.grad.add_(gradient)

    def gradients(self, scale: float = 1.0) -> list[Tensor]:
        """The gradients of the updated tensors, in their dtype, divided by the loss scale in place."""
        self.collect()
        gradients = [value.grad for value in self.updated.values() if value.grad is not None]
        if gradients and scale != 1:
            torch._foreach_mul_([local(gradient) for gradient in gradients], 1 / scale)
        return gradients

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for optimizer in self.optimizers:
            optimizer.step()
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the masters, if any, rounded to the parameters."""
        for name, parameter in self.parameters.items() if self.has_masters else ():
            local(parameter.detach()).copy_(local(self.updated[name].detach()))

    def masters(self) -> dict[str, Tensor]:
        """The fp32 masters by parameter name; empty if parameters are updated directly."""
        return {name: value.detach() for name, value in self.updated.items()} if self.has_masters else {}

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer state by ``name:key`` ("blocks.0.weight:exp_avg"), for a checkpoint."""
        state: dict[str, Tensor] = {}
        for optimizer in self.optimizers:
            for name, parameter in self.updated.items():
                for key, value in optimizer.state.get(parameter, {}).items():
                    state[f"{name}:{key}"] = value
        return state

    def empty(self, sizes: Mapping[str, tuple[torch.Size, torch.dtype]]) -> dict[str, Tensor]:
        """Allocate this rank's optimizer state of the given sizes (keys as in :meth:`tensors`), to be filled.

        Tensors with the shape of their parameter are sharded like it.
        """
        state = {}
        owners = {
            id(value): optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for value in group["params"]
        }
        for key, (size, dtype) in sizes.items():
            name, _, field = key.rpartition(":")
            parameter = self.updated[name]
            if size == parameter.shape:
                value = torch.empty_like(parameter, dtype=dtype, requires_grad=False)
            else:
                value = torch.empty(size, dtype=dtype, device=parameter.device)
            owners[id(parameter)].state[parameter][field] = state[key] = value
        return state

    def load_masters(self, weights: Mapping[str, Tensor]) -> None:
        """Load the fp32 masters, if any, from a checkpoint's weights."""
        for name, value in self.masters().items():
            value.copy_(weights[name])

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the state that :meth:`tensors` returned, in the parameters' memory layout."""
        for optimizer in self.optimizers:
            owned = {id(value) for group in optimizer.param_groups for value in group["params"]}
            for key, value in tensors.items():
                name, _, field = key.rpartition(":")
                parameter = self.updated[name]
                if id(parameter) in owned:
                    optimizer.state[parameter][field] = _like(value, parameter)


def _by_mesh(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Groups of parameters that one fused update can process: those sharded over the same ranks."""
    groups: dict[Any, list[nn.Parameter]] = {}
    for value in parameters:
        groups.setdefault(getattr(value, "device_mesh", None), []).append(value)
    return list(groups.values())


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
