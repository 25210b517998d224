"""Pictures of every kind become RGB squares, and bad ones are refused with the right reason."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogview.data.images import BadImage, Limits, centre_crop, decode, resize_shorter, square
from cogview.data.shards import Preprocessing
from tests.reference.cogview_data import square_without_antialias


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_rgb_stays_as_it_is() -> None:
    decoded = decode(encoded(noise(9, 5)))
    assert decoded.conversions == ()
    np.testing.assert_array_equal(np.asarray(decoded.image), np.asarray(noise(9, 5)))


def test_alpha_is_laid_over_white() -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0] = [(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51)]
    decoded = decode(encoded(Image.fromarray(rgba)))
    assert np.asarray(decoded.image)[0].tolist() == [[255, 0, 0], [255, 255, 255], [204, 204, 204]]
    assert decoded.conversions == ("alpha over white",)


def test_grey_with_alpha_and_transparent_palette() -> None:
    grey = Image.fromarray(np.array([[[0, 0], [0, 255]]], dtype=np.uint8))
    assert grey.mode == "LA"
    assert np.asarray(decode(encoded(grey)).image)[0].tolist() == [[255] * 3, [0] * 3]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    data = encoded(palette, transparency=0)
    assert np.asarray(decode(data).image)[0].tolist() == [[255] * 3, [40, 50, 60]]
    opaque = decode(encoded(palette))
    assert (opaque.image.getpixel((0, 0)), opaque.conversions) == ((10, 20, 30), ("palette",))


@pytest.mark.parametrize(
    ("mode", "value", "kind", "expected", "conversion"),
    [
        ("L", 77, "PNG", (77, 77, 77), "grey"),
        ("1", 1, "PNG", (255, 255, 255), "black and white"),
        ("CMYK", (0, 255, 255, 0), "TIFF", (255, 0, 0), "CMYK"),
        ("I;16", 0x8000, "PNG", (128, 128, 128), "deep grey to 8 bits"),
    ],
)
def test_other_modes_are_converted(
    mode: str, value: int, kind: str, expected: tuple[int, int, int], conversion: str
) -> None:
    decoded = decode(encoded(Image.new(mode, (4, 4), value), kind))
    assert decoded.image.getpixel((2, 2)) == expected
    assert decoded.conversions == (conversion,)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    decoded = decode(data)
    assert decoded.image.getpixel((0, 0)) == (255, 0, 0)
    assert "first frame of an animation" in decoded.conversions


def test_the_camera_s_rotation_is_applied() -> None:
    image = Image.new("RGB", (4, 2), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(image, "JPEG", exif=exif)).image.size == (2, 4)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a huge size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [9_000, 30_000])  # over our limit; over Pillow's own as well
def test_a_decompression_bomb_is_refused_before_decoding(side: int) -> None:
    with pytest.raises(BadImage) as caught:
        decode(bomb(side, side))
    assert caught.value.reason == "too many pixels"


def test_limits_are_inclusive() -> None:
    data = encoded(noise(10, 10))
    decode(data, Limits(max_pixels=100, max_bytes=len(data)))
    with pytest.raises(BadImage, match="too many pixels"):
        decode(data, Limits(max_pixels=99))
    with pytest.raises(BadImage, match="too many bytes"):
        decode(data, Limits(max_bytes=len(data) - 1))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files_are_refused(kind: str) -> None:
    data = encoded(noise(40, 40), kind)
    with pytest.raises(BadImage) as caught:
        decode(data[: len(data) // 2])
    assert caught.value.reason in ("truncated", "not an image")


@pytest.mark.parametrize("data", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n", b"GIF89a", bytes(1000)])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadImage) as caught:
        decode(data)
    assert caught.value.reason in ("not an image", "truncated")


def test_damaged_pixels_never_raise_anything_else() -> None:
    data = bytearray(encoded(noise(20, 20), "PNG"))
    rng = np.random.default_rng(0)
    for _ in range(200):
        copy = bytearray(data)
        for place in rng.integers(0, len(copy), 3):
            copy[place] = rng.integers(0, 256)
        try:
            assert decode(bytes(copy)).image.mode == "RGB"
        except BadImage as error:
            assert str(error)


def test_a_missing_file_is_its_own_reason(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="missing file"):
        decode(tmp_path / "none.png")


@pytest.mark.parametrize(("width", "height"), [(150, 90), (90, 150), (33, 100), (64, 64), (1, 7), (301, 300)])
@pytest.mark.parametrize("size", [32, 72])
def test_squares_have_the_size_and_the_centre(width: int, height: int, size: int) -> None:
    resized = resize_shorter(noise(width, height), size, Image.Resampling.BILINEAR)
    assert min(resized.size) == size
    assert max(resized.size) == int(size * max(width, height) / min(width, height))
    left, top = (round((side - size) / 2) for side in resized.size)
    expected = np.asarray(resized)[top : top + size, left : left + size]
    np.testing.assert_array_equal(np.asarray(centre_crop(resized, size)), expected)
    assert square(noise(width, height), Preprocessing(size=size)).shape == (size, size, 3)


def test_box_halving_is_the_mean_of_four() -> None:
    image = noise(16, 16)
    blocks = np.asarray(image, dtype=np.float64).reshape(8, 2, 8, 2, 3).mean((1, 3))
    found = square(image, Preprocessing(size=8, resample="box"))
    assert np.abs(found - blocks).max() <= 1.0  # rounded twice, by rows and by columns


def test_without_antialiasing_every_pixel_hangs_on_four() -> None:
    """Shrunk 4 times, only the two middle rows and columns of each block count; written out by hand."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    made = square_without_antialias(Image.fromarray(pixels), 8)
    assert made.shape == (8, 8, 3) and made.dtype == np.uint8
    blocks = pixels.reshape(8, 4, 12, 4, 3)[:, 1:3, :, 1:3].astype(np.float64).mean((1, 3))
    assert np.array_equal(made, np.round(blocks[:, 2:10]))  # the middle 8 of 12 columns
    same = square_without_antialias(Image.fromarray(pixels[:, :32]), 32)
    assert np.array_equal(same, pixels[:, :32])


def test_without_antialiasing_the_longer_side_is_cut_down() -> None:
    tall = square_without_antialias(Image.new("L", (7, 20), 9), 5)  # 5 x 14, rows 4 to 8 stay
    assert tall.shape == (5, 5, 3) and (tall == 9).all()
