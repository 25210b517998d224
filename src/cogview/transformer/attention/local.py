"""Local attention on images (CogView2, sections 3.3 and 4.3): 2-D windows, causal windows, two resolutions.

A sequence is a *head* of tokens that see each other, then the codes of an image in raster order, which see
through windows: around their own place, and for direct super-resolution around the place under it in the
small image, which belongs to the head. ``layout.sees`` (``window.py``) and the head's mask are the
definition; tiles (``halo.py``) are the fast path everywhere, FlexAttention (``local_flex.py``) on a GPU.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from cogview.transformer.attention.halo import attend
from cogview.transformer.attention.pattern import View, Visibility, attend_fused
from cogview.transformer.attention.window import Grid, Keys, Layout, Window


class Windowed(Visibility):
    """A head of tokens and an image that sees through windows.

    layout: who sees whom of the image; its keys are numbers in the whole sequence. among: bool (1 or batch,
    head, head), who sees whom in the head. hidden: bool (batch, layout.shared), which of the shared keys an
    image does not see.
    """

    def __init__(self, layout: Layout, among: Tensor, hidden: Tensor | None = None) -> None:
        self.layout, self.among, self.hidden = layout, among, hidden

    @property
    def head(self) -> int:
        """Tokens before the image."""
        return self.among.shape[-1]

    @property
    def length(self) -> int:
        """Tokens of the whole sequence."""
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
            among = self.among[:, rows, :keys].to(device)
            seen = seen.repeat(len(among) if len(seen) == 1 else 1, 1, 1)
            seen[:, : among.shape[1]] = False
            seen[:, : among.shape[1], : among.shape[2]] = among
        return seen[:, None]

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        if not queries == keys == self.length:
            return self.dense_view(queries, keys, device, layer)
        device = device or torch.device("cpu")
        if device.type != "cuda" or find_spec("triton") is None:
            return View(kernel=TiledKernel(self, device))
        from cogview.transformer.attention.local_flex import FlexKernel

        return View(kernel=FlexKernel(self.layout, self.among, self.hidden))


class TiledKernel:
    """A view's kernel: fused attention for the head, tiles for the image."""

    def __init__(self, pattern: Windowed, device: torch.device) -> None:
        self.layout, self.head = pattern.layout, View(pattern.among[:, None].to(device))
        self.hidden = None if pattern.hidden is None else pattern.hidden.to(device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
        """(b, heads, length, d), three times -> (b, heads, length, d)."""
        assert self.head.allowed is not None
        head = self.head.allowed.shape[-1]
        picture = attend(query[:, :, head:], key, value, self.layout, hidden=self.hidden, dropout=dropout)
        if not head:
            return picture
        first = attend_fused(query[:, :, :head], key[:, :, :head], value[:, :, :head], self.head, dropout)
        return torch.cat([first, picture], 2)


def _padding(padding: int | Tensor) -> Tensor:
    return torch.as_tensor(padding).reshape(-1, 1)


class Local(Windowed):
    """Text and an image: the text sees the text, a code the text and the codes in a window around it.

    grid: rows and columns of codes. text: places of the text, before the image. padding: the number of
    places at the text's start hold nothing and are not seen; one number, or int64 (batch,).
    """

    def __init__(self, grid: Grid, window: Window, text: int = 0, padding: int | Tensor = 0) -> None:
        hidden = torch.arange(text, device=_padding(padding).device) < _padding(padding)  # (b, text)
        among = ~hidden[:, None].expand(-1, text, -1)
        layout = Layout(grid, (Keys(text, grid, window),), shared=text)
        # where there is no text at all its places must still see something, or the result is no number
        super().__init__(layout, among | hidden.all(-1)[:, None, None], hidden if hidden.any() else None)


class CrossResolution(Windowed):
    """Text, a small image and a large one, whose codes see windows of both images.

    The text sees the text; the small image sees text and small image; a code of the large one sees
    ``window`` around it and ``across`` around the place under it, and no text.

    text: places of the text, filled from the right; padding: how many of them hold nothing, one number or
    int64 (batch,): nobody but they see them. small, grid: rows and columns, whole multiples.
    """

    def __init__(
        self, text: int, small: Grid, grid: Grid, window: Window, across: Window, padding: int | Tensor = 0
    ) -> None:
        empty = _padding(padding)[..., None]
        place = torch.arange(text + small[0] * small[1], device=empty.device)
        row, column = place[:, None], place
        among = ((row >= text) | (column < text)) & ((row < empty) | (column >= empty))
        keys = Keys(text, small, across), Keys(len(place), grid, window)
        super().__init__(Layout(grid, keys), among)
