"""Finetuning a model to generate without guidance as it does with guidance, at half the cost.

Guidance evaluates every sequence twice: with the caption and with an empty one. Two objectives train a copy
of a model (the student) to work without the second, against the frozen model (the teacher) it starts from:

- ``distillation``: for each predicted code, the Kullback-Leibler divergence between the student's and the
  teacher's guided distribution softmax(u + s (c - u)). Meng et al., *On Distillation of Guided Diffusion
  Models* (2022, section 3.1), for tokens and one guidance scale s.
- ``contrastive``: condition contrastive alignment, Chen et al. (2024), *Toward Guidance-Free AR Visual
  Generation via Condition Contrastive Alignment*, equation 10: an image becomes more likely than under the
  teacher with its own caption, and less likely with the caption of another row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cogview.config import Config
from cogview.data.loader import TokenBatch
from cogview.generation.sampling import guide
from cogview.training.recipe import Recipe
from cogview.training.task import Metrics
from cogview.training.tasks.transformer import TransformerTask, make_batch
from cogview.training.tasks.transformer_recipe import TransformerRecipe
from cogview.training.throughput import BatchCost
from cogview.transformer.model import Transformer

LOGITS = 1 << 24  # of a group of tokens, recomputed in the backward pass: 64 MB of float32


class Distillation(Config):
    """guidance: the guidance scale to distill, with which the teacher was used before."""

    kind: Literal["distillation"] = "distillation"
    guidance: float = Field(2.0, gt=1, allow_inf_nan=False)


class Contrastive(Config):
    """beta: scale of the log-likelihood ratios; negative: weight of the mismatched pairs (lambda), which
    trades diversity for fidelity as the guidance scale does."""

    kind: Literal["contrastive"]
    beta: float = Field(0.02, gt=0, allow_inf_nan=False)
    negative: float = Field(300.0, ge=0, allow_inf_nan=False)


class GuidanceFreeRecipe(TransformerRecipe):
    """A recipe for a model that needs no guidance. ``init`` is both the teacher and the student's start.

    Only codes are trained on, so text weights have no effect. ``cell_weights`` weight the divergence.
    """

    task: Literal["guidance_free"]  # type: ignore[assignment]
    softmax: Literal["region"] = "region"
    objective: Annotated[Distillation | Contrastive, Field(discriminator="kind")] = Distillation()

    @model_validator(mode="after")
    def _teaches(self) -> Self:
        if self.init is None:
            raise ValueError("init: missing; give the model whose guidance is to be distilled")
        if self.format.kind != "text_to_image":
            raise ValueError(f"guidance is for text_to_image, but format.kind is {self.format.kind}")
        if self.cell_weights and self.objective.kind == "contrastive":
            raise ValueError("cell_weights are for distillation; contrastive compares complete images")
        return self


def guided_divergence(student: Tensor, conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """KL(guided || student) of every token, in nats: (n,) float32 from three tensors of logits (n, codes)."""
    target = guide(conditional.float(), unconditional.float(), guidance).log_softmax(-1)
    return F.kl_div(student.float().log_softmax(-1), target, reduction="none", log_target=True).sum(-1)


def contrastive_loss(matched: Tensor, other: Tensor, beta: float, negative: float) -> Tensor:
    """Equation 10 for each row: matched and other, (n,), are an image's log-likelihoods minus the teacher's,
    with its own caption and with another one."""
    return -F.logsigmoid(beta * matched) - negative * F.logsigmoid(-beta * other)


def mismatched(texts: Sequence[list[int]]) -> list[list[int]]:
    """For each text the next different one in the batch; the empty text if all are equal."""
    twice = [*texts, *texts]
    return [
        next((other for other in twice[row + 1 : row + len(texts)] if other != text), [])
        for row, text in enumerate(texts)
    ]


class GuidanceFreeTask(TransformerTask):
    """Finetunes a transformer to work without guidance; see :class:`GuidanceFreeRecipe`."""

    recipe_class: ClassVar[type[Recipe]] = GuidanceFreeRecipe
    name: ClassVar[str] = "guidance_free"
    all_half: ClassVar[bool] = False
    parallel: ClassVar[tuple[str, ...]] = ("ddp",)
    recipe: GuidanceFreeRecipe

    @cached_property
    def teacher(self) -> Transformer:
        """The model in ``init``, frozen."""
        return Transformer.from_directory(self.start.directory, device=self.device).requires_grad_(False)

    @property
    def codes(self) -> slice:
        """The vocabulary rows of image codes."""
        ids = self.format.vocabulary.images
        return slice(ids.start, ids.stop)

    def _sequences(self, batch: TokenBatch, multiple: int = 1) -> dict[str, Any]:
        """The sequences of a batch; ``other`` has those of the same images with other captions."""
        if self.recipe.objective.kind == "contrastive":
            texts = mismatched(batch["texts"])
        else:
            texts = [[] for _ in batch["texts"]]
        other = make_batch(self.format, cast(TokenBatch, {**batch, "texts": texts}), multiple)
        return {**super()._sequences(batch, multiple), "other": other}

    def loss(self, model: nn.Module, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics]:
        objective, student = self.recipe.objective, cast(Transformer, model)
        if isinstance(objective, Distillation):
            return self._distil(student, batch, objective.guidance)
        matched, other = (self._ratios(student, part) for part in (batch, batch["other"]))
        loss = contrastive_loss(matched, other, objective.beta, objective.negative).mean()
        return loss, {"own": matched.detach().mean(), "other": other.detach().mean()}

    def _distil(self, student: Transformer, batch: Any, guidance: float) -> tuple[Tensor, Metrics]:
        """The weighted mean divergence of the codes, and the unweighted mean for the log."""
        with torch.no_grad():
            teacher_states = [self._states(self.teacher, part) for part in (batch, batch["other"])]

        def divergence(states: Tensor, conditional: Tensor, unconditional: Tensor) -> Tensor:
            with torch.no_grad():
                with_text = self.teacher.logits(conditional, self.codes)
                without = self.teacher.logits(unconditional, self.codes)
            return guided_divergence(student.logits(states, self.codes), with_text, without, guidance)

        each = self._in_groups(divergence, self._states(student, batch), *teacher_states)
        weights = batch["weights"].flatten()[batch["image_at"]]
        loss = (each * weights).sum() / weights.sum().clamp(min=1e-9)
        return loss, {"divergence": each.detach().sum() / max(1, len(each))}

    def _ratios(self, student: Transformer, batch: Any) -> Tensor:
        """Each image's log-likelihood minus the teacher's, (batch,)."""
        with torch.no_grad():
            reference = self._likelihoods(self.teacher, batch)
        return self._likelihoods(student, batch) - reference

    def _likelihoods(self, model: Transformer, batch: Any) -> Tensor:
        """Log-likelihoods of images (batch,); every row has the same number of codes, or none."""

        def losses(states: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(model.logits(states, self.codes).float(), targets, reduction="none")

        targets = batch["targets"].flatten()[batch["image_at"]] - self.codes.start
        each = self._in_groups(losses, self._states(model, batch), targets)
        return -each.reshape(len(batch["inputs"]), -1).sum(1)

    def _states(self, model: Transformer, batch: Any) -> Tensor:
        """The hidden states (n, h) from which codes are predicted."""
        return self._hidden(model, batch).flatten(0, 1)[batch["image_at"]]

    def _in_groups(self, compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Apply ``compute`` to groups of tokens, so that the logits of all are never in memory."""
        size = max(1, LOGITS // (self.codes.stop - self.codes.start))
        parts = zip(*(torch.split(one, size) for one in inputs), strict=True)
        return torch.cat([checkpoint(compute, *part, use_reentrant=False) for part in parts])

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The objective and its parts on the validation split, and its text and image losses."""
        losses, sums, rows = super().evaluate(model), dict[str, float](), 0
        for batch in self.validation:
            loss, parts = self.loss(model, self.prepare(batch, self.device), 0, "model")
            for name, value in {"loss": loss, **parts}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(batch["inputs"])
            rows += len(batch["inputs"])
        return {**losses, **{name: total / rows for name, total in sums.items()}}

    def batch_cost(self, model: nn.Module, batch: Any) -> BatchCost:
        """The student's cost and two forward passes of the teacher, each a third of a training step."""
        cost = super().batch_cost(model, batch)
        steps = 2 if self.recipe.objective.kind == "contrastive" else 1
        return BatchCost(cost.tokens, cost.operations * (steps + 2 / 3))

    def loss_weights(self, batch: Any) -> dict[str, float]:
        """Weight the loss by the number of codes."""
        return {"loss": len(batch["image_at"])}

    def facts(self) -> dict[str, Any]:
        """Also the objective, so that a family generates without guidance."""
        return {**super().facts(), "guidance_free": self.recipe.objective.kind}
