"""Local attention on images (CogView2, sections 3.3 and 4.3): 2-D windows, causal windows, two resolutions.

A sequence is a *head* of tokens that see each other, followed by the codes of an image in raster order, which
see local windows: around their own position, and for direct super-resolution around the corresponding
position in the small image, which belongs to the head. ``layout.sees`` (``window.py``) and the head's mask
are the definition; the fast path is tiles (``halo.py``), or FlexAttention (``local_flex.py``) on a GPU.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from cogview.transformer.attention.halo import attend
from cogview.transformer.attention.pattern import View, Visibility, attend_fused
from cogview.transformer.attention.window import Grid, Keys, Layout, Window


class Windowed(Visibility):
    """A head of tokens, and an image with local attention.

    layout: the attention pattern of the image's queries; its key indices refer to the full sequence.
    head_mask: bool (1 or batch, head, head), the attention mask within the head. hidden: bool (batch,
    layout.shared), which of the shared keys the image does not see.
    """

    def __init__(self, layout: Layout, head_mask: Tensor, hidden: Tensor | None = None) -> None:
        self.layout, self.head_mask, self.hidden = layout, head_mask, hidden

    @property
    def head(self) -> int:
        """Number of tokens before the image."""
        return self.head_mask.shape[-1]

    @property
    def length(self) -> int:
        """Number of tokens of the full sequence."""
        return self.head + self.layout.queries[0] * self.layout.queries[1]

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        query, key = torch.arange(keys - queries, keys, device=device), torch.arange(keys, device=device)
        seen = self.layout.sees(query[:, None] - self.head, key)[None]  # (1, queries, keys)
        shared = self.layout.shared
        if self.hidden is not None:
            visible = torch.ones(len(self.hidden), 1, keys, dtype=torch.bool, device=device)
            visible[:, 0, :shared] = ~self.hidden[:, :keys].to(device)
            seen = seen & visible
        if keys - queries < self.head:
            rows = slice(keys - queries, min(self.head, keys))
            head_mask = self.head_mask[:, rows, :keys].to(device)
            seen = seen.repeat(len(head_mask) if len(seen) == 1 else 1, 1, 1)
            seen[:, : head_mask.shape[1]] = False
            seen[:, : head_mask.shape[1], : head_mask.shape[2]] = head_mask
        return seen[:, None]

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        if not queries == keys == self.length:
            return self.dense_view(queries, keys, device, layer)
        device = device or torch.device("cpu")
        if device.type != "cuda" or find_spec("triton") is None:
            return View(kernel=TiledKernel(self, device))
        from cogview.transformer.attention.local_flex import FlexKernel

        return View(kernel=FlexKernel(self.layout, self.head_mask, self.hidden))


class TiledKernel:
    """The CPU kernel of a view: fused attention for the head, tiles for the image."""

    def __init__(self, pattern: Windowed, device: torch.device) -> None:
        self.layout, self.head = pattern.layout, View(pattern.head_mask[:, None].to(device))
        self.hidden = None if pattern.hidden is None else pattern.hidden.to(device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
        """Three tensors (b, heads, length, d) -> (b, heads, length, d)."""
        assert self.head.allowed is not None
        head = self.head.allowed.shape[-1]
        image = attend(query[:, :, head:], key, value, self.layout, hidden=self.hidden, dropout=dropout)
        if not head:
            return image
        first = attend_fused(query[:, :, :head], key[:, :, :head], value[:, :, :head], self.head, dropout)
        return torch.cat([first, image], 2)


def _padding(padding: int | Tensor) -> Tensor:
    return torch.as_tensor(padding).reshape(-1, 1)


class Local(Windowed):
    """Text and an image: the text sees the text, a code sees the text and the codes in a window around it.

    grid: rows and columns of codes. text: slots of the text, before the image. padding: the number of padding
    tokens at the text's start, which are hidden; one number, or int64 (batch,).
    """

    def __init__(self, grid: Grid, window: Window, text: int = 0, padding: int | Tensor = 0) -> None:
        hidden = torch.arange(text, device=_padding(padding).device) < _padding(padding)  # (b, text)
        head_mask = ~hidden[:, None].expand(-1, text, -1)
        layout = Layout(grid, (Keys(text, grid, window),), shared=text)
        # if a text consists of padding only, it must still see something, or the result is NaN
        super().__init__(layout, head_mask | hidden.all(-1)[:, None, None], hidden if hidden.any() else None)


class CrossResolution(Windowed):
    """Text, a small image and a large one whose codes see windows of both images.

    The text sees the text; the small image sees the text and itself; a code of the large image sees
    ``window`` around it and ``across`` around the corresponding position of the small one, but no text.

    text: slots of the left-padded text; padding: the number of padding tokens, one number or int64 (batch,),
    which only see each other. small, grid: rows and columns; those of grid are multiples of those of small.
    """

    def __init__(
        self, text: int, small: Grid, grid: Grid, window: Window, across: Window, padding: int | Tensor = 0
    ) -> None:
        empty = _padding(padding)[..., None]
        place = torch.arange(text + small[0] * small[1], device=empty.device)
        row, column = place[:, None], place
        head_mask = ((row >= text) | (column < text)) & ((row < empty) | (column >= empty))
        keys = Keys(text, small, across), Keys(len(place), grid, window)
        super().__init__(Layout(grid, keys), head_mask)
