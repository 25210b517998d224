"""The Inception v3 with which FID is defined (Heusel et al., 2017; Szegedy et al., 2016), from a user's file.

The network is that of TensorFlow's file inception-2015-12-05, which differs from the Inception v3 of
torchvision: average pooling does not count the padding, the last block uses max pooling, and there are 1,008
classes. Its weights were ported to PyTorch as ``pt_inception-2015-12-05-6726825d.pth`` (pytorch-fid,
torch-fidelity); ``cogview import inception`` checks such a file and converts it to safetensors with the same
names.

Preprocessing affects the figures, so there are two, each bit-exact with the implementation it is named after:
``pytorch-fid`` (half-pixel bilinear resizing of [0, 1]) and ``tensorflow`` (the resizing inside the original
graph, as in torch-fidelity). The Inception Score uses the class logits without bias, as the original code.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.errors import CogViewError
from cogview.files import open_regular
from cogview.importers.checkpoint import load_pickle
from cogview.tensors import load_tensors

Preprocessing = Literal["pytorch-fid", "tensorflow"]
SIZE, FEATURES, CLASSES = 299, 2048, 1008
PUBLISHED = "6726825d"  # first digits of the published file's SHA-256
Pair = tuple[int, int]


@dataclass(frozen=True)
class Conv:
    """A convolution by its published name: output channels, kernel (height, width), stride.

    With stride 1 it keeps the size; ``bare`` ones and those with stride 2 have no padding.
    """

    name: str
    width: int
    kernel: Pair = (1, 1)
    stride: int = 1
    bare: bool = False

    def module(self, inputs: int) -> nn.Sequential:
        """Convolution, norm, ReLU: (b, inputs, H, W) to (b, width, H', W')."""
        unpadded = self.bare or self.stride > 1
        padding = (0, 0) if unpadded else (self.kernel[0] // 2, self.kernel[1] // 2)
        layer = nn.Sequential()
        layer.add_module("conv", nn.Conv2d(inputs, self.width, self.kernel, self.stride, padding, bias=False))
        layer.add_module("bn", nn.BatchNorm2d(self.width, eps=0.001))
        layer.add_module("relu", nn.ReLU(inplace=True))
        return layer


@dataclass(frozen=True)
class Branch:
    """An optional pooling, a chain of convolutions, optionally two parallel ones on the chain's output."""

    chain: tuple[Conv, ...]
    fork: tuple[Conv, ...] = ()
    pool: Literal["none", "mean", "max", "halve"] = "none"


def _a(pool: int) -> tuple[Branch, ...]:
    three = (3, 3)
    return (
        Branch((Conv("branch1x1", 64),)),
        Branch((Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5)))),
        Branch(
            (
                Conv("branch3x3dbl_1", 64),
                Conv("branch3x3dbl_2", 96, three),
                Conv("branch3x3dbl_3", 96, three),
            )
        ),
        Branch((Conv("branch_pool", pool),), pool="mean"),
    )


def _b() -> tuple[Branch, ...]:
    long = (
        Conv("branch3x3dbl_1", 64),
        Conv("branch3x3dbl_2", 96, (3, 3)),
        Conv("branch3x3dbl_3", 96, (3, 3), 2),
    )
    return Branch((Conv("branch3x3", 384, (3, 3), 2),)), Branch(long), Branch((), pool="halve")


def _c(width: int) -> tuple[Branch, ...]:
    row, column = (1, 7), (7, 1)
    short = (
        Conv("branch7x7_1", width),
        Conv("branch7x7_2", width, row),
        Conv("branch7x7_3", 192, column),
    )
    long = (
        Conv("branch7x7dbl_1", width),
        Conv("branch7x7dbl_2", width, column),
        Conv("branch7x7dbl_3", width, row),
        Conv("branch7x7dbl_4", width, column),
        Conv("branch7x7dbl_5", 192, row),
    )
    pooled = Branch((Conv("branch_pool", 192),), pool="mean")
    return Branch((Conv("branch1x1", 192),)), Branch(short), Branch(long), pooled


def _d() -> tuple[Branch, ...]:
    short = (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2))
    long = (
        Conv("branch7x7x3_1", 192),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, (3, 3), 2),
    )
    return Branch(short), Branch(long), Branch((), pool="halve")


def _e(pool: Literal["mean", "max"]) -> tuple[Branch, ...]:
    row, column = (1, 3), (3, 1)
    return (
        Branch((Conv("branch1x1", 320),)),
        Branch(
            (Conv("branch3x3_1", 384),),
            (Conv("branch3x3_2a", 384, row), Conv("branch3x3_2b", 384, column)),
        ),
        Branch(
            (Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, (3, 3))),
            (Conv("branch3x3dbl_3a", 384, row), Conv("branch3x3dbl_3b", 384, column)),
        ),
        Branch((Conv("branch_pool", 192),), pool=pool),
    )


STEM = (
    (
        Conv("Conv2d_1a_3x3", 32, (3, 3), 2),
        Conv("Conv2d_2a_3x3", 32, (3, 3), bare=True),
        Conv("Conv2d_2b_3x3", 64, (3, 3)),
    ),
    (Conv("Conv2d_3b_1x1", 80), Conv("Conv2d_4a_3x3", 192, (3, 3), bare=True)),
)
BLOCKS = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": _b(),
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": _d(),
    "Mixed_7b": _e("mean"),
    "Mixed_7c": _e("max"),
}


def _halved(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2)


class Mixed(nn.Module):
    """Parallel branches whose channels are concatenated."""

    def __init__(self, inputs: int, branches: tuple[Branch, ...]) -> None:
        super().__init__()
        self.branches, self.width = branches, 0
        for branch in branches:
            width = inputs
            for conv in branch.chain:
                self.add_module(conv.name, conv.module(width))
                width = conv.width
            for conv in branch.fork:
                self.add_module(conv.name, conv.module(width))
            self.width += sum(conv.width for conv in branch.fork) or width

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part for branch in self.branches for part in self._branch(branch, x)], 1)

    def _branch(self, branch: Branch, x: Tensor) -> list[Tensor]:
        if branch.pool == "mean":
            x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        elif branch.pool == "max":
            x = F.max_pool2d(x, 3, 1, 1)
        elif branch.pool == "halve":
            x = _halved(x)
        for conv in branch.chain:
            x = self.get_submodule(conv.name)(x)
        return [self.get_submodule(conv.name)(x) for conv in branch.fork] or [x]


class Inception(nn.Module):
    """Images (b, 3, 299, 299) in [-1, 1] to features (b, 2048) and class probabilities (b, 1008)."""

    def __init__(self) -> None:
        super().__init__()
        width = 3
        for part in STEM:
            for conv in part:
                self.add_module(conv.name, conv.module(width))
                width = conv.width
        for name, branches in BLOCKS.items():
            block = Mixed(width, branches)
            self.add_module(name, block)
            width = block.width
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for part in STEM:
            for conv in part:
                x = self.get_submodule(conv.name)(x)
            x = _halved(x)
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
        features = x.mean((2, 3))
        return features, F.linear(features, self.fc.weight).softmax(-1)

    @classmethod
    def from_file(cls, path: str | Path) -> Inception:
        """Read the file of ``cogview import inception``; CogViewError if it is missing or another one."""
        model = cls()
        try:
            state = load_tensors(path)
        except CogViewError as error:
            raise CogViewError(f"{error}; make it with `cogview import inception`") from None
        model.load_state_dict(_checked(state, str(path)), strict=False)
        return model.eval()


def _expected() -> dict[str, Tensor]:
    """Every weight of the network on the meta device, without the counters of batch norms."""
    with torch.device("meta"):
        model = Inception()
    return {name: x for name, x in model.state_dict().items() if not name.endswith("num_batches_tracked")}


def _checked(state: object, where: str) -> dict[str, Tensor]:
    """The network's weights in ``state``; a CogViewError names the first difference."""
    entries = state if isinstance(state, dict) else {}
    weights = {
        str(name): x
        for name, x in entries.items()
        if isinstance(x, Tensor) and not str(name).endswith("num_batches_tracked")
    }
    expected = _expected()
    unknown = next((name for name in weights if name not in expected), None)
    missing = next((name for name in expected if name not in weights), None)
    misshapen = next((n for n in expected if n in weights and weights[n].shape != expected[n].shape), None)
    reason = None
    if missing:
        reason = f"it has no {missing}"
    elif unknown:
        reason = f"it has {unknown}"
        reason += ", as torchvision's Inception v3" if "Aux" in unknown else ""
    elif misshapen:
        reason = f"{misshapen} is {tuple(weights[misshapen].shape)}, not {tuple(expected[misshapen].shape)}"
    if reason:
        raise CogViewError(
            f"{where}: not the Inception network of FID ({reason}); "
            f"get pt_inception-2015-12-05-{PUBLISHED}.pth"
        )
    return {name: x.float().contiguous() for name, x in weights.items()}


def import_inception(source: str | Path, out: str | Path) -> bool:
    """Write a published file as safetensors; returns whether its hash is that of the published file.

    Raises:
        CogViewError: the file is missing, unsafe, or of another network.
    """
    source = Path(source)
    if source.suffix == ".safetensors":
        state: object = load_tensors(source)
    else:
        state = load_pickle(source)
    weights = {name: x.clone() for name, x in _checked(state, str(source)).items()}
    with open_regular(source) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, out, {"network": "inception-2015-12-05", "source_sha256": digest})
    return digest.startswith(PUBLISHED)


# ------------------------------------------------------------------------------------------- preprocessing


def prepare(images: NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    """Images (n, H, W, 3) as network input (n, 3, 299, 299), bit-exact with the named implementation."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    if preprocessing == "tensorflow":
        return (_tensorflow_bilinear(x, SIZE) - 128) / 128
    return 2 * F.interpolate(x / 255, (SIZE, SIZE), mode="bilinear", align_corners=False) - 1


def _tensorflow_bilinear(x: Tensor, size: int) -> Tensor:
    """TensorFlow 1's resize_bilinear: output pixel i is at i * in / out, no half pixel, no antialiasing."""
    top, bottom, down = _neighbours(x.shape[2], size)
    left, right, across = _neighbours(x.shape[3], size)

    def row(index: Tensor) -> Tensor:
        pixels = x[:, :, index]
        return pixels[..., left] + (pixels[..., right] - pixels[..., left]) * across

    upper, lower = row(top), row(bottom)
    return upper + (lower - upper) * down[:, None]


def _neighbours(count: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each output pixel its two input pixels, and the interpolation weight of the second."""
    position = torch.arange(size, dtype=torch.float32) * torch.tensor(count / size, dtype=torch.float32)
    first = position.floor().long()
    return first, (first + 1).clamp_max(count - 1), position - first


class InceptionExtractor:
    """The network as a feature extractor (``fid.Extractor``) of images of ``size`` pixels a side.

    It resizes them itself, by ``preprocessing``.
    """

    def __init__(
        self, path: str | Path, size: int = 256, preprocessing: Preprocessing = "pytorch-fid"
    ) -> None:
        self.model, self.size, self.preprocessing = Inception.from_file(path), size, preprocessing
        self.name = "Inception" if preprocessing == "pytorch-fid" else f"Inception-{preprocessing}"
        self.fingerprint = hashlib.sha256(Path(path).read_bytes()).hexdigest()

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        inputs = prepare(images, self.preprocessing).to(self.model.fc.weight.device)
        features, probabilities = self.model(inputs)
        return features.cpu().numpy(), probabilities.cpu().numpy()
