"""Finetuning a model to generate without guidance what it generates with it, at half the cost.

Guidance reads every sequence twice: with the caption and with an empty one. Two objectives teach a copy of a
model to do without the second, against the frozen model (*teacher*) that it starts from:

- ``distillation``: where each code is predicted, the Kullback-Leibler divergence from the teacher's guided
  distribution, softmax(u + s (c - u)), to the copy's own. Meng et al., *On Distillation of Guided Diffusion
  Models* (2022, section 3.1), for tokens and one strength s.
- ``contrastive``: condition contrastive alignment, Chen et al. (2024), *Toward Guidance-Free AR Visual
  Generation via Condition Contrastive Alignment*, equation 10: an image becomes more likely under its own
  caption than the teacher finds it, and less under another row's.
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

LOGITS = 1 << 24  # of a group of places, which are computed again for their gradient: 64 MB of float32


class Distillation(Config):
    """guidance: the strength that is taught, what the model was generated with before."""

    kind: Literal["distillation"] = "distillation"
    guidance: float = Field(2.0, gt=1, allow_inf_nan=False)


class Contrastive(Config):
    """beta: how much a ratio of likelihoods counts; negative: the weight of the pairs that do not match
    (lambda), which decides between fidelity and diversity as the strength of guidance does."""

    kind: Literal["contrastive"]
    beta: float = Field(0.02, gt=0, allow_inf_nan=False)
    negative: float = Field(300.0, ge=0, allow_inf_nan=False)


class GuidanceFreeRecipe(TransformerRecipe):
    """A recipe for a model that needs no guidance. ``init`` is the model that is taught and teaches.

    Codes alone are learnt, so the weights of texts have no effect. ``cell_weights`` weigh the divergence.
    """

    task: Literal["guidance_free"]  # type: ignore[assignment]
    softmax: Literal["region"] = "region"
    objective: Annotated[Distillation | Contrastive, Field(discriminator="kind")] = Distillation()

    @model_validator(mode="after")
    def _teaches(self) -> Self:
        if self.init is None:
            raise ValueError("init: missing; it is the model whose guidance is to be taught")
        if self.format.kind != "text_to_image":
            raise ValueError(f"guidance is of text_to_image, but format.kind is {self.format.kind}")
        if self.cell_weights and self.objective.kind == "contrastive":
            raise ValueError("cell_weights are of distillation; contrastive compares whole pictures")
        return self


def guided_divergence(found: Tensor, conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """KL(guided || found) of every place, in nats: (n,) float32 from three (n, codes) of logits."""
    wanted = guide(conditional.float(), unconditional.float(), guidance).log_softmax(-1)
    return F.kl_div(found.float().log_softmax(-1), wanted, reduction="none", log_target=True).sum(-1)


def contrastive_loss(own: Tensor, other: Tensor, beta: float, negative: float) -> Tensor:
    """Equation 10 for each row: own and other, (n,), are the log-likelihoods of an image less the teacher's,
    under its own caption and under another."""
    return -F.logsigmoid(beta * own) - negative * F.logsigmoid(-beta * other)


def mismatched(texts: Sequence[list[int]]) -> list[list[int]]:
    """For each text the next one in the batch that differs; the empty one where all are the same."""
    twice = [*texts, *texts]
    return [
        next((other for other in twice[row + 1 : row + len(texts)] if other != text), [])
        for row, text in enumerate(texts)
    ]


class GuidanceFreeTask(TransformerTask):
    """Finetunes a transformer to need no guidance; see :class:`GuidanceFreeRecipe`."""

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
        """Rows of the vocabulary that are image codes: what is sampled from."""
        ids = self.format.vocabulary.images
        return slice(ids.start, ids.stop)

    def _sequences(self, batch: TokenBatch, multiple: int = 1) -> dict[str, Any]:
        """The sequences of a batch; under ``other`` those of the same images with the other captions."""
        if self.recipe.objective.kind == "contrastive":
            texts = mismatched(batch["texts"])
        else:
            texts = [[] for _ in batch["texts"]]
        other = make_batch(self.format, cast(TokenBatch, {**batch, "texts": texts}), multiple)
        return {**super()._sequences(batch, multiple), "other": other}

    def loss(self, model: nn.Module, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics]:
        asked, student = self.recipe.objective, cast(Transformer, model)
        if isinstance(asked, Distillation):
            return self._distil(student, batch, asked.guidance)
        own, other = (self._ratios(student, part) for part in (batch, batch["other"]))
        loss = contrastive_loss(own, other, asked.beta, asked.negative).mean()
        return loss, {"own": own.detach().mean(), "other": other.detach().mean()}

    def _distil(self, student: Transformer, batch: Any, guidance: float) -> tuple[Tensor, Metrics]:
        """The mean divergence of the places of codes, by their weights, and by itself."""
        with torch.no_grad():
            taught = [self._states(self.teacher, part) for part in (batch, batch["other"])]

        def divergence(found: Tensor, conditional: Tensor, unconditional: Tensor) -> Tensor:
            with torch.no_grad():
                told, untold = (self.teacher.logits(x, self.codes) for x in (conditional, unconditional))
            return guided_divergence(student.logits(found, self.codes), told, untold, guidance)

        each = self._in_groups(divergence, self._states(student, batch), *taught)
        weights = batch["weights"].flatten()[batch["image_at"]]
        loss = (each * weights).sum() / weights.sum().clamp(min=1e-9)
        return loss, {"divergence": each.detach().sum() / max(1, len(each))}

    def _ratios(self, student: Transformer, batch: Any) -> Tensor:
        """Each image's log-likelihood less the teacher's, (batch,)."""
        with torch.no_grad():
            taught = self._likelihoods(self.teacher, batch)
        return self._likelihoods(student, batch) - taught

    def _likelihoods(self, model: Transformer, batch: Any) -> Tensor:
        """Log-likelihoods of images (batch,): every row has equally many codes, or none."""

        def losses(states: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(model.logits(states, self.codes).float(), targets, reduction="none")

        targets = batch["targets"].flatten()[batch["image_at"]] - self.codes.start
        each = self._in_groups(losses, self._states(model, batch), targets)
        return -each.reshape(len(batch["inputs"]), -1).sum(1)

    def _states(self, model: Transformer, batch: Any) -> Tensor:
        """Hidden states (n, h) that codes are predicted from."""
        return self._hidden(model, batch).flatten(0, 1)[batch["image_at"]]

    def _in_groups(self, compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """``compute`` of some places at a time, so that the logits of all never are in memory."""
        size = max(1, LOGITS // (self.codes.stop - self.codes.start))
        parts = zip(*(torch.split(one, size) for one in inputs), strict=True)
        return torch.cat([checkpoint(compute, *part, use_reentrant=False) for part in parts])

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The objective and its parts on the validation split, and the losses of its texts and images."""
        found, sums, rows = super().evaluate(model), dict[str, float](), 0
        for batch in self.validation:
            loss, parts = self.loss(model, self.prepare(batch, self.device), 0, "model")
            for name, value in {"loss": loss, **parts}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(batch["inputs"])
            rows += len(batch["inputs"])
        return {**found, **{name: total / rows for name, total in sums.items()}}

    def batch_cost(self, model: nn.Module, batch: Any) -> BatchCost:
        """Besides the copy's the teacher's two forwards, each a third of a training step."""
        own = super().batch_cost(model, batch)
        steps = 2 if self.recipe.objective.kind == "contrastive" else 1
        return BatchCost(own.tokens, own.operations * (steps + 2 / 3))

    def loss_weights(self, batch: Any) -> dict[str, float]:
        """By the codes."""
        return {"loss": len(batch["image_at"])}

    def facts(self) -> dict[str, Any]:
        """With what the model was taught, so that a family generates without guidance."""
        return {**super().facts(), "guidance_free": self.recipe.objective.kind}
