"""Vector quantizers of the image tokenizer: five training methods with one interface.

CogView, section 2.2, compares the first four and finds them equally good (Figure 2):

- ``nearest``         nearest code, straight-through estimator, codebook learned by gradient (VQ-VAE);
- ``gumbel``          a Gumbel-softmax sample over negative squared distances, with annealed temperature;
- ``moving_average``  nearest code, each code the moving average of its vectors (the paper's choice);
- ``fixed``           nearest code, codebook fixed after initialisation;
- ``finite_scalar``   every coordinate is bounded and rounded to one of a few levels, so that the codebook is
                      the grid of all combinations and is not learned (FSQ, Mentzer et al., 2023; bounded by
                      the scaled sigmoid of iFSQ, arXiv 2601.17124, which uses the levels evenly).

All map vectors ``(..., dim)`` to quantised vectors, codes and a loss. Usage and perplexity are measured on
every training batch; unused codes can be restarted from the current batch. If several processes train one
codebook, ``total`` sums their statistics over all parts of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.tensors import no_autocast

Method = Literal["nearest", "gumbel", "moving_average", "fixed", "finite_scalar"]

# Levels of each coordinate for a number of codes (FSQ, table 1).
LEVELS = {
    64: (8, 8),
    240: (8, 6, 5),
    1000: (8, 5, 5, 5),
    1024: (8, 8, 4, 4),
    4096: (8, 8, 8, 8),
    4375: (7, 5, 5, 5, 5),
    15360: (8, 8, 8, 6, 5),
}


@dataclass(frozen=True)
class Quantized:
    """The result of a quantizer.

    vectors: (..., dim), with the straight-through gradient; codes: (...) int64; loss: scalar to add to the
    reconstruction loss (commitment, and the codebook loss if it is learned by gradient).
    """

    vectors: Tensor
    codes: Tensor
    loss: Tensor


def codebook_perplexity(counts: Tensor) -> Tensor:
    """exp(entropy) of the histogram ``counts`` (codes,): 1 if only one code is used, ``codes`` if uniform."""
    p = counts.float() / counts.sum().clamp(min=1)
    return torch.exp(-(p * (p + 1e-20).log()).sum())


def gumbel_noise(like: Tensor) -> Tensor:
    """Standard Gumbel noise of the shape and dtype of ``like``, from torch's generator."""
    noise: Tensor = -torch.empty_like(like).exponential_().log()
    return noise


class Quantizer(nn.Module):
    """Nearest-code lookup, shared by four of the methods; subclasses define how the codebook is trained.

    Args:
        codes: number of codes K.
        dim: width of a code.
        commitment: weight of the commitment loss (van den Oord et al.; released: 1).

    Attributes:
        total: sums counts or sums over this process's vectors over all processes.
    """

    codebook: Tensor
    usage: Tensor

    def __init__(self, codes: int, dim: int, commitment: float = 1.0) -> None:
        super().__init__()
        self.codes, self.dim, self.commitment = codes, dim, commitment
        self.total: Callable[[Tensor], Tensor] = lambda values: values
        self.register_buffer("usage", torch.ones(codes))

    def initial_codebook(self) -> Tensor:
        """(codes, dim): Xavier uniform with the gain of tanh, as in Appendix A and the release."""
        return nn.init.xavier_uniform_(torch.empty(self.codes, self.dim), gain=nn.init.calculate_gain("tanh"))

    def distances(self, z: Tensor) -> Tensor:
        """Squared distances (n, codes) of vectors (n, dim) to every code, in float32 under autocast too."""
        z, book = z.float(), self.codebook.float()
        with no_autocast(z.device):  # bfloat16 products would change a quarter of all codes
            return z.pow(2).sum(1, keepdim=True) - 2 * z @ book.t() + book.pow(2).sum(1)

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Codes (...) of vectors (..., dim); the first index wins a tie."""
        book = self.codebook.float().t()
        norms = book.pow(2).sum(0)
        rows = z.reshape(-1, self.dim).float()
        # |z|^2 is the same for every code; chunks of 1024 rows keep the distances in the cache.
        with no_autocast(z.device):
            parts = [torch.addmm(norms, part, book, alpha=-2).argmin(1) for part in torch.split(rows, 1024)]
        return torch.cat(parts).view(z.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors (..., dim) of codes (...)."""
        return F.embedding(codes, self.codebook)

    def forward(self, z: Tensor) -> Quantized:
        codes = self.encode(z)
        vectors = self.lookup(codes).to(z.dtype)
        if self.training:
            self.count(codes)
            self.learn(z.detach().reshape(-1, self.dim).float(), codes.reshape(-1))
        return Quantized(z + (vectors - z).detach(), codes, self.loss(z, vectors))

    def loss(self, z: Tensor, vectors: Tensor) -> Tensor:
        return self.commitment * F.mse_loss(vectors.detach(), z)

    def learn(self, z: Tensor, codes: Tensor) -> None:
        """Update a codebook that is not trained by gradient from vectors (n, dim) and their codes (n,)."""

    @torch.no_grad()
    def count(self, codes: Tensor) -> None:
        """Update the running usage with this batch's histogram (decay 0.99)."""
        counts = self.total(torch.bincount(codes.reshape(-1), minlength=self.codes).to(self.usage.dtype))
        self.usage.mul_(0.99).add_(counts, alpha=0.01)

    @torch.no_grad()
    def restart(self, z: Tensor, below: float = 0.05) -> int:
        """Reset codes used less than ``below`` times a batch to random rows of ``z`` (n, dim).

        Returns how many were reset.
        """
        dead = (self.usage < below).nonzero().squeeze(1)
        dead = dead[: z.shape[0]]
        if len(dead) and not isinstance(self, FixedQuantizer):
            rows = torch.randperm(z.shape[0], device=z.device)[: len(dead)]
            self.assign(dead, z[rows].float())
            self.usage[dead] = 1.0
            return len(dead)
        return 0

    @torch.no_grad()
    def assign(self, rows: Tensor, vectors: Tensor) -> None:
        """Set codes ``rows`` (m,) to ``vectors`` (m, dim)."""
        self.codebook[rows] = vectors.to(self.codebook.dtype)

    @torch.no_grad()
    def initialise(self, vectors: Tensor) -> None:
        """Set the codebook to ``vectors`` (codes, dim), and the usage of each code to once a batch."""
        self.usage.fill_(1.0)
        self.assign(torch.arange(self.codes, device=self.codebook.device), vectors)

    def progress(self, fraction: float) -> None:
        """Set the progress of training (0 to 1), for schedules."""


class NearestQuantizer(Quantizer):
    """Straight-through nearest code; the codebook is trained by a squared-distance loss."""

    def __init__(self, codes: int, dim: int, commitment: float = 0.25) -> None:
        super().__init__(codes, dim, commitment)
        self.codebook = nn.Parameter(self.initial_codebook())

    def loss(self, z: Tensor, vectors: Tensor) -> Tensor:
        return super().loss(z, vectors) + F.mse_loss(vectors, z.detach())


class FixedQuantizer(Quantizer):
    """The codebook stays as initialised; only encoder and decoder are trained."""

    def __init__(self, codes: int, dim: int, commitment: float = 1.0) -> None:
        super().__init__(codes, dim, commitment)
        self.register_buffer("codebook", self.initial_codebook())


class MovingAverageQuantizer(Quantizer):
    """Each code is the moving average of the vectors mapped to it (decay 0.99, Laplace-smoothed counts)."""

    cluster_size: Tensor
    average: Tensor

    def __init__(self, codes: int, dim: int, commitment: float = 1.0, decay: float = 0.99) -> None:
        super().__init__(codes, dim, commitment)
        self.decay, self.epsilon = decay, 1e-5
        book = self.initial_codebook()
        self.register_buffer("codebook", book)
        self.register_buffer("cluster_size", torch.zeros(codes))
        self.register_buffer("average", book.clone())

    @torch.no_grad()
    def learn(self, z: Tensor, codes: Tensor) -> None:
        counts = self.total(torch.bincount(codes, minlength=self.codes).to(z.dtype))
        sums = torch.zeros(self.codes, self.dim, dtype=z.dtype, device=z.device).index_add_(0, codes, z)
        sums = self.total(sums)
        self.cluster_size.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.average.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        total = self.cluster_size.sum()
        smooth = (self.cluster_size + self.epsilon) / (total + self.codes * self.epsilon) * total
        self.codebook.copy_(self.average / smooth.unsqueeze(1))

    @torch.no_grad()
    def initialise(self, vectors: Tensor) -> None:
        self.cluster_size.fill_(1.0)
        super().initialise(vectors)

    @torch.no_grad()
    def assign(self, rows: Tensor, vectors: Tensor) -> None:
        super().assign(rows, vectors)
        share = self.cluster_size.sum().clamp(min=1.0) / self.codes
        self.cluster_size[rows] = share
        self.average[rows] = vectors.to(self.average.dtype) * share


class GumbelQuantizer(Quantizer):
    """A sample argmax(g - |v - x|^2 / tau), straight-through a softmax; tau decays from ``start`` to ``end``.

    In evaluation mode it takes the nearest code, like the others. The KL divergence from the uniform prior
    (``sum q log(q K)``) keeps the codes in use. ``noise`` returns g for logits (n, codes).
    """

    codebook: Tensor

    def __init__(
        self,
        codes: int,
        dim: int,
        commitment: float = 1.0,
        start: float = 1.0,
        end: float = 1 / 16,
        kl: float = 1e-4,
    ) -> None:
        super().__init__(codes, dim, commitment)
        self.codebook = nn.Parameter(self.initial_codebook())
        self.start, self.end, self.kl = start, end, kl
        self.temperature = start
        self.noise: Callable[[Tensor], Tensor] = gumbel_noise

    def progress(self, fraction: float) -> None:
        """Cosine decay of the temperature from ``start`` to ``end`` over three quarters of the training."""
        t = min(1.0, max(0.0, fraction) / 0.75)
        self.temperature = self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * t))

    def forward(self, z: Tensor) -> Quantized:
        if not self.training:
            return super().forward(z)
        logits = -self.distances(z.reshape(-1, self.dim)) / self.temperature  # (n, codes)
        soft = (logits + self.noise(logits)).softmax(1)
        sampled = soft.argmax(1)
        one_hot = F.one_hot(sampled, self.codes).to(soft.dtype) - soft.detach() + soft
        codes = sampled.view(z.shape[:-1])
        self.count(codes)
        q = logits.softmax(1)
        kl = (q * (q * self.codes + 1e-20).log()).sum(1).mean()
        vectors = (one_hot @ self.codebook.float()).view(z.shape).to(z.dtype)
        return Quantized(vectors, codes, self.kl * kl)


class FiniteScalarQuantizer(Quantizer):
    """Rounds each coordinate to evenly spaced levels in [-1, 1]; their grid is the fixed codebook.

    A coordinate z becomes ``2 sigmoid(1.6 z) - 1``, which maps a normal distribution to a nearly uniform one,
    and is rounded to the nearest level with a straight-through gradient. The last coordinate changes fastest.

    Raises:
        ValueError: no levels are known for this number of codes, or ``dim`` does not fit them.
    """

    def __init__(self, codes: int, dim: int, commitment: float = 0.0) -> None:
        levels = LEVELS.get(codes)
        if levels is None or dim != len(levels):
            known = ", ".join(f"{count} (code_dim {len(sides)})" for count, sides in LEVELS.items())
            raise ValueError(f"finite_scalar: codes must be one of {known}; not {codes} (code_dim {dim})")
        self.levels = levels
        super().__init__(codes, dim, commitment)
        self.register_buffer("codebook", self.initial_codebook())

    def initial_codebook(self) -> Tensor:
        """(codes, dim): the grid of all levels."""
        return torch.cartesian_prod(*(torch.linspace(-1, 1, count) for count in self.levels))

    def bounded(self, z: Tensor) -> Tensor:
        """Vectors (..., dim) mapped to (-1, 1), float32."""
        return 2 * torch.sigmoid(1.6 * z.float()) - 1

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        codes = torch.zeros(z.shape[:-1], dtype=torch.int64, device=z.device)
        for value, count in zip(self.bounded(z).unbind(-1), self.levels, strict=True):
            codes = codes * count + ((value + 1) * (count - 1) / 2).round().long()
        return codes

    def forward(self, z: Tensor) -> Quantized:
        codes = self.encode(z)
        bounded = self.bounded(z)
        if self.training:
            self.count(codes)
        vectors = bounded + (self.lookup(codes) - bounded).detach()
        return Quantized(vectors.to(z.dtype), codes, self.commitment * bounded.new_zeros(()))

    def restart(self, z: Tensor, below: float = 0.05) -> int:
        return 0

    def initialise(self, vectors: Tensor) -> None:
        """Does nothing: the codebook is fixed."""


METHODS: dict[Method, type[Quantizer]] = {
    "nearest": NearestQuantizer,
    "gumbel": GumbelQuantizer,
    "moving_average": MovingAverageQuantizer,
    "fixed": FixedQuantizer,
}


def make_quantizer(method: Method, codes: int, dim: int, commitment: float | None = None) -> Quantizer:
    """Build the quantizer of a method; ``commitment`` None uses the method's default."""
    kind = FiniteScalarQuantizer if method == "finite_scalar" else METHODS[method]
    return kind(codes, dim) if commitment is None else kind(codes, dim, commitment)


@torch.no_grad()
def kmeans(vectors: Tensor, clusters: int, iterations: int = 10) -> Tensor:
    """Centres (clusters, dim) by Lloyd's algorithm; initial ones and those of empty clusters are random."""
    n = vectors.shape[0]
    centres = vectors[torch.randperm(n)[:clusters]].clone()
    if n < clusters:
        extra = vectors[torch.randint(n, (clusters - n,))]
        centres = torch.cat([centres, extra + 0.01 * torch.randn_like(extra)])
    for _ in range(iterations):
        labels = torch.cat([torch.cdist(part, centres).argmin(1) for part in torch.split(vectors, 8192)])
        counts = torch.bincount(labels, minlength=clusters)
        sums = torch.zeros_like(centres).index_add_(0, labels, vectors)
        empty = counts == 0
        centres = sums / counts.clamp(min=1).unsqueeze(1)
        centres[empty] = vectors[torch.randint(n, (int(empty.sum()),))]
    return centres
