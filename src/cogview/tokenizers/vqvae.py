"""Image tokenizers: images to codes of a discrete codebook and back (CogView, section 2.2 and Appendix A).

Two architectures behind one class:

- ``paper``     Appendix A: three 4x4 stride-2 convolutions of 512 channels with ReLU and a 1x1 convolution to
                the code's width; the decoder mirrors it with transposed convolutions (23.2 M parameters).
- ``residual``  the default model's: pixels are folded into channels (no computation at full resolution),
                residual blocks at each level and one attention block at the code grid, mirrored in the
                decoder.

Encoder and decoder need not mirror each other: the encoder may read images reduced by ``reduce``, while a
wider decoder with different steps reconstructs them at full size. A new decoder does not change any codes.

Shapes: images ``(batch, 3, H, W)`` in [0, 1]; codes ``(batch, h * w)`` int64, row by row, with
``h = H / factor``.
"""

from __future__ import annotations

import hashlib
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.config import Config, read_json
from cogview.errors import CogViewError
from cogview.tokenizers.quantizers import Method, Quantized, make_quantizer
from cogview.tokenizers.saving import CONFIG, load_weights, save_weights, stored_fingerprint

RELEASED_MEAN = (0.79093, 0.76271, 0.75340)
RELEASED_STD = (0.30379, 0.32279, 0.32800)
MAX_SIDE = 4096  # pixels of an image
Step = Annotated[int, Field(ge=1, le=64)]
Factors = Annotated[tuple[Step, ...], Field(min_length=1, max_length=8)]
Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=1 << 14)], ...], Field(min_length=1, max_length=8)]
Blocks = Annotated[tuple[Annotated[int, Field(ge=0, le=64)], ...], Field(min_length=1, max_length=8)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _check_widths(channels: tuple[int, ...], attention: bool) -> None:
    """Raise ValueError if group norm (8 groups) or attention (heads of about 64) does not divide a width."""
    odd = next((width for width in channels if width % 8), None)
    if odd is not None:
        raise ValueError(f"channels {odd} is not a multiple of 8")
    if attention and channels[-1] % (heads := max(1, channels[-1] // 64)):
        raise ValueError(f"channels {channels[-1]} does not divide into {heads} heads of attention")


class ImageTokenizerConfig(Config):
    """Architecture, quantizer and normalisation of an image tokenizer.

    ``factors`` are the encoder's downsampling steps, first to last; ``channels`` and ``blocks`` are the
    width and the number of residual blocks after each step. ``reduce`` shrinks images with a box filter
    before the encoder. ``decoder_factors``, ``decoder_channels`` and ``decoder_blocks`` are those of the
    decoder, from the image inwards (None: as the encoder); its factors multiply to ``factor``.
    """

    architecture: Literal["paper", "residual"] = "residual"
    image_size: int = Field(72, ge=4, le=MAX_SIDE)
    factors: Factors = (3, 2)
    channels: Widths = (96, 192)
    blocks: Blocks = (1, 2)
    reduce: int = Field(1, ge=1, le=64)
    resize: tuple[Step, Step] = (1, 1)
    decoder_factors: Factors | None = None
    decoder_channels: Widths | None = None
    decoder_blocks: Blocks | None = None
    attention: bool = True
    codes: int = Field(4096, ge=2, le=1 << 24)
    code_dim: int = Field(32, ge=1, le=1 << 16)
    method: Method = "moving_average"
    commitment: float | None = Field(None, ge=0, allow_inf_nan=False)
    mean: tuple[Finite, Finite, Finite] = (0.5, 0.5, 0.5)
    std: tuple[Positive, Positive, Positive] = (0.5, 0.5, 0.5)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not len(self.factors) == len(self.channels) == len(self.blocks):
            raise ValueError("factors, channels and blocks must have the same length")
        if min(self.resize) < 1 or math.gcd(*self.resize) > 1 or (self.resized and len(self.factors) < 2):
            raise ValueError("resize must be a fraction in lowest terms, and between two steps at least")
        if self.image_size % self.multiple:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {self.multiple}")
        if self.architecture == "residual":
            for widths in (self.channels, self.decoder_steps[1]):
                _check_widths(widths, self.attention)
        if self.architecture == "paper" and set(self.factors) != {2}:
            raise ValueError("the paper's architecture halves at every step: factors must all be 2")
        if self.architecture == "paper" and (
            self.reduce > 1 or self.resized or self.decoder_factors or self.decoder_channels
        ):
            raise ValueError(
                "the paper's decoder mirrors its encoder: reduce, resize, decoder_* do not apply"
            )
        factors, channels, blocks = self.decoder_steps
        if not len(factors) == len(channels) == len(blocks):
            raise ValueError("decoder_factors, decoder_channels and decoder_blocks must have the same length")
        if math.prod(factors) != self._steps:
            raise ValueError(
                f"decoder_factors multiply to {math.prod(factors)}, but reduce and factors to {self._steps}"
            )
        if self.resized and len(factors) < 2:
            raise ValueError("resize must be between two steps at least, in the decoder too")
        if self.method == "finite_scalar":
            make_quantizer(self.method, self.codes, self.code_dim)
        return self

    @property
    def _steps(self) -> int:
        """The encoder's downsampling factor, without ``resize``."""
        return self.reduce * math.prod(self.factors)

    @property
    def resized(self) -> bool:
        """Whether feature maps are resized between two steps."""
        return self.resize != (1, 1)

    @property
    def factor(self) -> Fraction:
        """Pixels per code along one side."""
        return Fraction(self._steps * self.resize[1], self.resize[0])

    @property
    def multiple(self) -> int:
        """The number of pixels of which an image's sides must be multiples."""
        return math.lcm(self.factor.numerator, self.reduce * self.factors[0] * self.resize[1])

    @property
    def decoder_steps(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Factors, channels and blocks of the decoder, from the image inwards."""
        return (
            self.decoder_factors or self.factors,
            self.decoder_channels or self.channels,
            self.decoder_blocks or self.blocks,
        )

    @property
    def normalisation(self) -> tuple[float, ...]:
        """Mean and standard deviation that normalise the encoder's input."""
        return (*self.mean, *self.std)

    @property
    def grid(self) -> tuple[int, int]:
        """Codes (rows, columns) of an image of ``image_size``."""
        side = int(self.image_size / self.factor)
        return side, side

    @classmethod
    def cogview(cls) -> ImageTokenizerConfig:
        """CogView's tokenizer: 256 px to 32 x 32 codes of 8192, width 256 (Appendix A; 23,237,379 values)."""
        return cls(
            architecture="paper",
            image_size=256,
            factors=(2, 2, 2),
            channels=(512, 512, 512),
            blocks=(0, 0, 0),
            codes=8192,
            code_dim=256,
            mean=RELEASED_MEAN,
            std=RELEASED_STD,
        )


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), the second convolution initialised to zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return cast(Tensor, x + self.conv2(F.silu(self.norm2(y))))


class AttentionBlock(nn.Module):
    """Self-attention over all positions of a feature map, with heads of 64 channels and a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // 64)
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (batch, heads, positions, head_dim)
        y = F.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, x + self.out(y.transpose(-1, -2).reshape(b, c, h, w)))


class Resize(nn.Module):
    """Resize feature maps (batch, c, h, w) by ``ratio``, with bilinear interpolation."""

    def __init__(self, ratio: Fraction) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        size = [int(side * self.ratio) for side in x.shape[-2:]]
        return F.interpolate(x, size, mode="bilinear", align_corners=False)


def paper_encoder(config: ImageTokenizerConfig) -> nn.Sequential:
    """Appendix A: [conv 4x4 stride 2, ReLU] for every step, then a 1x1 convolution to the code's width."""
    layers: list[nn.Module] = []
    width = 3
    for channels in config.channels:
        layers += [nn.Conv2d(width, channels, 4, stride=2, padding=1), nn.ReLU(inplace=True)]
        width = channels
    return nn.Sequential(*layers, nn.Conv2d(width, config.code_dim, 1))


def paper_decoder(config: ImageTokenizerConfig) -> nn.Sequential:
    """The mirrored encoder: [transposed conv 4x4 stride 2, ReLU] for every step, then 1x1 to RGB."""
    layers: list[nn.Module] = []
    width = config.code_dim
    for channels in reversed(config.channels):
        layers += [nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1), nn.ReLU(inplace=True)]
        width = channels
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 1))


def residual_encoder(config: ImageTokenizerConfig) -> nn.Sequential:
    """Pixel-unshuffle and residual blocks, repeated down to the code grid, with optional attention there."""
    layers: list[nn.Module] = []
    width = 3
    for i, (factor, channels, blocks) in enumerate(
        zip(config.factors, config.channels, config.blocks, strict=True)
    ):
        if i == 1 and config.resized:
            layers.append(Resize(Fraction(*config.resize)))
        layers += [nn.PixelUnshuffle(factor), nn.Conv2d(width * factor**2, channels, 3, padding=1)]
        layers += [ResidualBlock(channels) for _ in range(blocks)]
        width = channels
    if config.attention:
        layers += [AttentionBlock(width), ResidualBlock(width)]
    return nn.Sequential(*layers, nn.GroupNorm(8, width), nn.Conv2d(width, config.code_dim, 1))


def residual_decoder(config: ImageTokenizerConfig) -> nn.Sequential:
    """From the code grid outwards, with a pixel-shuffle at each step."""
    steps = list(zip(*config.decoder_steps, strict=True))[::-1]
    width = steps[0][1]
    layers: list[nn.Module] = [nn.Conv2d(config.code_dim, width, 3, padding=1)]
    if config.attention:
        layers += [ResidualBlock(width), AttentionBlock(width)]
    for i, (factor, channels, blocks) in enumerate(steps):
        layers += [ResidualBlock(channels) for _ in range(blocks)]
        out = steps[i + 1][1] if i + 1 < len(steps) else 3
        if out == 3:
            layers += [nn.GroupNorm(8, channels), nn.SiLU()]
        layers += [nn.Conv2d(channels, out * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
        if i == 0 and config.resized:
            layers.append(Resize(1 / Fraction(*config.resize)))
    return nn.Sequential(*layers)


class ImageTokenizer(nn.Module):
    """Encoder, codebook and decoder; see the module's docstring for shapes."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        paper = config.architecture == "paper"
        self.encoder = paper_encoder(config) if paper else residual_encoder(config)
        self.quantizer = make_quantizer(config.method, config.codes, config.code_dim, config.commitment)
        self.decoder = paper_decoder(config) if paper else residual_decoder(config)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        self.rounded_from: str | None = None  # the fingerprint before its weights were rounded to int8

    @property
    def codes(self) -> int:
        """Size of the codebook."""
        return self.config.codes

    @property
    def image_size(self) -> int:
        """Side in pixels of the images this tokenizer was trained on."""
        return self.config.image_size

    def grid(self, size: int | None = None) -> tuple[int, int]:
        """Codes (rows, columns) of a square image of ``size`` pixels (default: ``image_size``)."""
        side = int((self.config.image_size if size is None else size) / self.config.factor)
        return side, side

    def features(self, images: Tensor) -> Tensor:
        """Encoder outputs (batch, h, w, code_dim), not quantised, of images (batch, 3, H, W) in [0, 1]."""
        if images.shape[-1] % self.config.multiple or images.shape[-2] % self.config.multiple:
            size = f"{images.shape[-1]}x{images.shape[-2]}"
            raise CogViewError(
                f"an image of {size} px does not divide into codes of {self.config.factor} px; "
                f"its sides must be multiples of {self.config.multiple}"
            )
        if self.config.reduce > 1:
            images = F.avg_pool2d(images, self.config.reduce)
        z = self.encoder((images - self.mean.to(images.dtype)) / self.std.to(images.dtype))
        return cast(Tensor, z.permute(0, 2, 3, 1))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Codes (batch, h * w) int64 of images (batch, 3, H, W) in [0, 1]."""
        return self.quantizer.encode(self.features(images)).flatten(1)

    def decode(self, codes: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Images (batch, 3, H, W), nominally in [0, 1] and not clamped, of codes (batch, h * w).

        ``grid`` gives (h, w) when the image is not square.
        """
        if grid is None:
            side = math.isqrt(codes.shape[1])
            grid = (side, side)
        if grid[0] * grid[1] != codes.shape[1]:
            raise CogViewError(f"{codes.shape[1]} codes do not fill a grid of {grid[0]} x {grid[1]}")
        return self.decode_vectors(self.quantizer.lookup(codes).view(codes.shape[0], *grid, -1))

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Images (batch, 3, H, W) of quantised vectors (batch, h, w, code_dim)."""
        images = self.decoder(vectors.permute(0, 3, 1, 2).contiguous())
        return cast(Tensor, images * self.std.to(images.dtype) + self.mean.to(images.dtype))

    def forward(self, images: Tensor) -> tuple[Tensor, Quantized]:
        """Reconstructions (batch, 3, H, W) and the quantizer's result, for training."""
        quantized = cast(Quantized, self.quantizer(self.features(images)))
        return self.decode_vectors(quantized.vectors), quantized

    @property
    def fingerprint(self) -> str:
        """16 hex digits of a hash of encoder, codebook and normalisation; if equal, codes are equal.

        The decoder is excluded on purpose: it may be improved without invalidating stored tokens. Weights are
        hashed as float16, in which they are stored. A tokenizer stored as int8 keeps its original
        fingerprint: about one code in a hundred differs, which does not affect a trained model.
        """
        if self.rounded_from is not None:
            return self.rounded_from
        settings: list[object] = [self.config.mean, self.config.std, self.config.factors]
        settings += [self.config.resize] if self.config.resized else []
        digest = hashlib.sha256(json.dumps(settings).encode())
        for name, tensor in sorted(self.state_dict().items()):
            if name.startswith("encoder.") or name == "quantizer.codebook":
                digest.update(name.encode() + tensor.detach().cpu().half().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, directory: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write ``config.json`` and ``model.safetensors`` (the weights for inference, in ``dtype``).

        torch.int8 stores convolutions as int8 with a scale per output channel, half the size of float16.
        """
        original = self.fingerprint if dtype == torch.int8 else self.rounded_from
        save_weights(directory, self.config, self._stored(), dtype, original)

    @classmethod
    def from_directory(cls, directory: str | Path) -> ImageTokenizer:
        """Read a tokenizer written by ``save``, in float32 and evaluation mode.

        Raises:
            CogViewError: files missing, damaged, or of another architecture.
        """
        config = read_json(ImageTokenizerConfig, Path(directory) / CONFIG)
        with torch.device("meta"):  # shapes are compared before any memory is allocated
            expected = cls(config)._stored()
        state = load_weights(directory, expected)
        model = cls(config)
        model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
        model.rounded_from = stored_fingerprint(directory)
        # Convolutions on a CPU are twice as fast with channels last.
        return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def _stored(self) -> dict[str, Tensor]:
        """The weights that inference needs."""
        prefixes = ("encoder.", "decoder.", "quantizer.codebook")
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith(prefixes)}
