"""Filters: words, borders, near-duplicates, sizes and random crops, alone and in check, build and cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from cogview.cli.app import main
from cogview.config import validate
from cogview.data.check import check
from cogview.data.decode_worker import answer
from cogview.data.filters import Filters, Lookalikes, border, difference_hash
from cogview.data.image_cache import build_image_cache
from cogview.data.images import BadImage, Limits, decode, random_crop, square
from cogview.data.samples import Caption
from cogview.data.shards import Preprocessing, TokenShards
from cogview.data.sources import open_source
from cogview.errors import CogViewError


def scene(seed: int, side: int = 96) -> Image.Image:
    """Overlapping discs on a slope of colour: no two seeds look alike."""
    chance = np.random.default_rng(seed)
    slope = np.linspace(0, 255, side)[None, :, None] * np.ones((side, 1, 3))
    image = Image.fromarray(np.uint8(slope * chance.random(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, radius = chance.integers(0, side, 3)
        colour = tuple(int(v) for v in chance.integers(0, 256, 3))
        draw.ellipse((x - radius / 3, y - radius / 3, x + radius / 3, y + radius / 3), fill=colour)
    return image


# ------------------------------------------------------------------------------------------------ each alone


@pytest.mark.parametrize(
    ("words", "caption", "found"),
    [
        (("abstract",), "An Abstract painting", "abstract"),
        (("abstract",), "abstraction of a tree", None),
        (("texture", "abstract"), "seamless texture", "texture"),
        (("纹理",), "木头纹理背景", "纹理"),
        ((), "anything", None),
    ],
)
def test_words_of_letters_match_whole_words(words: tuple[str, ...], caption: str, found: str | None) -> None:
    filters = Filters(exclude=words)
    assert filters.excluded([Caption("a cat"), Caption(caption)]) == found


def test_words_come_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("Abstract\n\n纹理\nabstract\n", "utf-8")
    assert Filters(exclude=["Cat", f"@{tmp_path / 'words.txt'}"]).exclude == ("cat", "abstract", "纹理")
    with pytest.raises(CogViewError, match="cannot be read"):
        validate(Filters, {"exclude": [f"@{tmp_path / 'none.txt'}"]}, "filters")


def test_borders_are_measured() -> None:
    """A picture of 60 x 80 pixels in a white frame: 20 + 20 of 120 pixels, and 10 of 90."""
    framed = Image.new("RGB", (90, 120), "white")
    framed.paste(scene(1).resize((80, 80)), (0, 20))
    assert border(framed) == pytest.approx(40 / 120)
    assert border(scene(1)) == 0.0 and border(Image.new("RGB", (30, 30), "red")) == 1.0
    grainy = np.asarray(framed, dtype=np.int16)
    grainy[:20] -= np.random.default_rng(0).integers(0, 8, (20, 90, 3), dtype=np.int16)
    assert border(Image.fromarray(np.uint8(grainy))) == pytest.approx(40 / 120)
    large = framed.resize((900, 1200), Image.Resampling.NEAREST)
    assert border(large) == pytest.approx(1 / 3, abs=0.02)


def test_the_hash_says_which_neighbours_get_lighter() -> None:
    """By hand: columns of 9 greys that rise and fall, eight rows the same."""
    greys = [0, 10, 20, 10, 10, 60, 50, 70, 80]
    image = Image.fromarray(np.uint8([greys] * 8)).convert("RGB")
    bits = [1, 1, 0, 0, 1, 0, 1, 1]
    assert difference_hash(image) == int("".join(map(str, bits * 8)), 2)


def test_the_hash_hardly_feels_compression_and_size() -> None:
    from io import BytesIO

    for seed in range(8):
        image, file = scene(seed), BytesIO()
        image.resize((61, 61)).save(file, "JPEG", quality=60)
        again = Image.open(file)
        assert (difference_hash(image) ^ difference_hash(again)).bit_count() <= 4
    far = [
        (difference_hash(scene(a)) ^ difference_hash(scene(b))).bit_count()
        for a in range(8)
        for b in range(a)
    ]
    assert min(far) > 8


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 63), max_size=8)), max_size=30),
    st.integers(0, 8),
)
def test_near_hashes_are_found_as_by_comparing_all(given_: list[tuple[int, set[int]]], distance: int) -> None:
    bases = np.random.default_rng(0).integers(0, 1 << 62, 4).tolist()
    looks = [bases[base] ^ sum(1 << bit for bit in flipped) for base, flipped in given_]
    kept: list[int] = []
    expected = []
    for look in looks:
        near = any((look ^ other).bit_count() <= distance for other in kept)
        expected.append(near)
        kept += [] if near else [look]
    found = Lookalikes(distance)
    assert [found.meets(look) for look in looks] == expected


def test_a_random_crop_is_a_part_of_the_picture_and_its_own() -> None:
    image = scene(3)
    crop = np.asarray(random_crop(image, 32))
    whole = np.asarray(image)
    places = [(y, x) for y in range(65) for x in range(65) if (whole[y : y + 32, x : x + 32] == crop).all()]
    assert len(places) == 1
    assert np.array_equal(crop, square(image, Preprocessing(size=32, crop="random")))
    others = {np.asarray(random_crop(scene(seed), 32)).tobytes() for seed in range(4)}
    assert len(others) == 4
    with pytest.raises(BadImage, match="too small: 96 x 96"):
        random_crop(image, 97)


def test_a_frame_is_refused_where_it_is_decoded() -> None:
    framed = Image.new("RGB", (90, 120), "white")
    framed.paste(scene(1).resize((80, 80)), (0, 20))
    from io import BytesIO

    file = BytesIO()
    framed.save(file, "PNG")
    with pytest.raises(BadImage, match="even border: 33% of a side, at most 20%"):
        decode(file.getvalue(), Limits(filters=Filters(max_border=0.2)))
    assert decode(file.getvalue(), Limits(filters=Filters(max_border=0.4)))
    limits = Limits(filters=Filters(near_duplicates=3))
    found = answer(file.getvalue(), limits, Preprocessing(size=8))
    assert found[-1] == difference_hash(framed)
    assert answer(file.getvalue(), Limits(), Preprocessing(size=8))[-1] is None


# ------------------------------------------------------------------------------------------------ together

ASKED = Limits(min_side=40, filters=Filters(exclude=("texture",), max_border=0.2, near_duplicates=4))
TAKEN = {"excluded word": 2, "even border": 1, "near duplicate": 3, "too small": 1}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Six good pictures, then three recompressed ones, two named textures, a framed one and a tiny one."""
    root = tmp_path / "mixed"
    root.mkdir()
    framed = Image.new("RGB", (90, 120), "white")
    framed.paste(scene(20).resize((80, 80)), (0, 20))
    pictures: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {}
    for number in range(6):
        pictures[f"a{number}.png"] = (scene(number), "a scene", {})
    for number in (1, 3, 5):
        pictures[f"b{number}.jpg"] = (scene(number).resize((70, 70)), "again", {"quality": 70})
    pictures["c.png"] = (scene(10), "wood texture", {})
    pictures["d.png"] = (scene(11), "a Texture", {})
    pictures["e.png"] = (framed, "framed", {})
    pictures["f.png"] = (scene(12, 30), "tiny", {})
    for name, (image, caption, settings) in pictures.items():
        image.save(root / name, **settings)
        (root / name).with_suffix(".txt").write_text(caption)
    return root


@pytest.mark.parametrize("workers", [0, 1])
def test_check_counts_what_each_filter_takes(mixed: Path, workers: int) -> None:
    report = check(open_source(mixed), ASKED, workers=workers)
    assert (report.good, report.rejected, report.filtered) == (6, TAKEN, 7)
    assert check(open_source(mixed)).good == 13


def test_a_cache_has_the_same(mixed: Path, tmp_path: Path) -> None:
    cache = build_image_cache(open_source(mixed), tmp_path / "cache", Preprocessing(size=24), ASKED)
    assert sorted(cache.keys) == [f"a{number}.png" for number in range(6)]


@pytest.mark.parametrize("records", [2, 5, 4096])
def test_a_build_leaves_out_the_same_however_it_is_cut(mixed: Path, tmp_path: Path, records: int) -> None:
    """By the command line; blocks of two records have a picture and its likeness in different ones."""
    words = [
        "data",
        "build",
        str(mixed),
        str(tmp_path / "out"),
        "--tokenizers",
        "pictogram",
        "--workers",
        "0",
    ]
    words += ["--exclude", "texture", "--max-border", "0.2", "--near-duplicates", "4", "--min-side", "40"]
    assert main([*words, "--shard-records", str(records)]) == 0
    shards = TokenShards(tmp_path / "out")
    assert sorted(shards.keys) == [f"a{number}.png" for number in range(6)]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["rejected"] == TAKEN and report["good"] == 6 and report["records"] == 13
    assert main([*words, "--shard-records", str(records)]) == 0  # nothing to do, and the same
    with pytest.raises(CogViewError, match="other data, tokenizers or settings"):
        _run([*words[:-2], "--shard-records", str(records)])


def _run(words: list[str]) -> None:
    """As ``main``, with its error raised."""
    import io
    from contextlib import redirect_stderr

    said = io.StringIO()
    with redirect_stderr(said):
        code = main(words)
    if code:
        raise CogViewError(said.getvalue())


def test_a_filtered_data_set_is_no_broken_one(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "check", str(mixed), "--workers", "0", "--exclude", "texture", "--min-side", "40"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "13 records: 10 good, 3 rejected" in said and "rejected: excluded word, 2" in said
    (mixed / "g.png").write_bytes(b"no picture")
    (mixed / "g.txt").write_text("broken")
    assert main(words) == 2


def test_random_crops_for_super_resolution(mixed: Path, tmp_path: Path) -> None:
    """72 px of 96 px pictures as they are, and the halves of these."""
    words = [
        "data",
        "build",
        str(mixed),
        str(tmp_path / "out"),
        "--tokenizers",
        "pictogram",
        "--workers",
        "0",
    ]
    words += ["--super-resolution", "--size", "72", "--crop", "random"]
    assert main(words) == 0
    shards = TokenShards(tmp_path / "out")
    assert shards.index.preprocessing.crop == "random" and shards.index.context_grid == (6, 6)
    assert len(shards) == 13 - 4  # the three of 70 px and the one of 30 px are too small
