"""Resizes images to any aspect ratio without distortion."""

from __future__ import annotations

from PIL import Image

from cogview.pipelines.background import ground_colour

Size = tuple[int, int]  # width, height


def fitted(image: Image.Image, size: Size) -> Image.Image:
    """The image at this size, undistorted: padded with its background if that is uniform, else cropped."""
    if image.size == size:
        return image
    (width, height), (wide, high) = image.size, size
    ground: tuple[int, ...] | None = (0, 0, 0, 0) if image.mode == "RGBA" else ground_colour(image)
    choose = min if ground is not None else max
    scale = choose(wide / width, high / height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (wide - inner[0]) // 2, (high - inner[1]) // 2
    if ground is None:  # only the visible box is resampled
        box = (-left / scale, -top / scale, (wide - left) / scale, (high - top) / scale)
        box = max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3])
        return image.resize(size, Image.Resampling.LANCZOS, box=box)
    resized = image.resize(inner, Image.Resampling.LANCZOS)
    if inner == size:
        return resized
    canvas = Image.new(image.mode, size, ground)
    canvas.paste(resized, (left, top))
    return canvas
