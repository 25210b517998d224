"""Building token shards with small real tokenizers: right, resumable, exactly once."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cogview.config import read_json
from cogview.data.build import REPORT, BuildSettings, build
from cogview.data.image_cache import ImageCache, build_image_cache
from cogview.data.images import square
from cogview.data.loader import ImageLoader, TokenLoader
from cogview.data.shards import Preprocessing, TokenShards
from cogview.data.sources import Source, open_source
from cogview.data.tally import Report
from cogview.errors import CogViewError
from cogview.tokenizers.text import TextTokenizer
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig

from .test_images import encoded, noise

BAD = (3, 8, 9)
COUNT = 17


@pytest.fixture(scope="session")
def images() -> ImageTokenizer:
    torch.manual_seed(0)
    config = ImageTokenizerConfig(
        image_size=12, factors=(3, 2), channels=(8, 8), blocks=(0, 0), attention=False, codes=16, code_dim=4
    )
    return ImageTokenizer(config).eval()


@pytest.fixture(scope="session")
def texts() -> TextTokenizer:
    lines = [f"a picture of number {number} 图片{number}号" for number in range(200)]
    return TextTokenizer.train(lines, 300)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventeen pictures with captions in two languages; three cannot be used."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(COUNT):
        data = encoded(noise(20 + number, 30, number))
        (root / f"{number:02d}.png").write_bytes(data[: 200 if number in BAD else None])
        (root / f"{number:02d}.en.txt").write_text(f"picture {number}\nnumber {number}", "utf-8")
        (root / f"{number:02d}.zh.txt").write_text(f"图片{number}", "utf-8")
    return root


@pytest.fixture(scope="session")
def source(folder: Path) -> Source:
    return open_source(folder, validation=0)


SETTINGS = BuildSettings(preprocessing=Preprocessing(size=12), shard_records=4, batch=3)


def test_shards_hold_what_the_tokenizers_say(
    source: Source, folder: Path, images: ImageTokenizer, texts: TextTokenizer, tmp_path: Path
) -> None:
    shards = build(source, tmp_path / "out", images, texts, SETTINGS)
    good = [number for number in range(COUNT) if number not in BAD]
    assert shards.keys == [f"{number:02d}.png" for number in good]
    assert shards.index.grid == (2, 2)
    assert shards.index.vocabulary.texts == range(16, 316)
    for item, number in zip(shards, good, strict=True):
        pixels = square(noise(20 + number, 30, number), Preprocessing(size=12))
        alone = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        np.testing.assert_array_equal(item.codes, images.encode(alone)[0].numpy())
        said = {(texts.decode(caption.pieces), caption.language) for caption in item.captions}
        assert said == {(f"picture {number}", "en"), (f"number {number}", "en"), (f"图片{number}", "zh")}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["good"], sum(report["rejected"].values())) == (14, 3)
    shards.require(images.fingerprint, texts.fingerprint)
    TokenShards(tmp_path / "out", hashes=True)


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def whole(
    source: Source, images: ImageTokenizer, texts: TextTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> TokenShards:
    return build(source, tmp_path_factory.mktemp("whole"), images, texts, SETTINGS)


@pytest.mark.parametrize(
    ("stops", "leftover"), [([1], True), ([4], False), ([5, 11], True), ([16, 17], False)]
)
def test_a_build_stopped_anywhere_ends_the_same(
    source: Source,
    images: ImageTokenizer,
    texts: TextTokenizer,
    whole: TokenShards,
    tmp_path: Path,
    stops: list[int],
    leftover: bool,
) -> None:
    for stop in stops:

        def progress(done: int, total: int, stop: int = stop) -> None:
            if done == stop:
                raise Stopped

        with pytest.raises(Stopped):
            build(source, tmp_path, images, texts, SETTINGS, progress=progress)
        with pytest.raises(CogViewError, match="the build is not finished"):
            TokenShards(tmp_path)
    if leftover:  # something unfinished in the place of the next shard; and beside it
        shards = len(list(tmp_path.glob("shard-*/block.json")))
        for name in (f"shard-{shards:05d}", f"shard-{shards + 1:05d}.part-1"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "codes.bin").write_bytes(b"junk")
    resumed = build(source, tmp_path, images, texts, SETTINGS)
    assert resumed.index == whole.index
    assert TokenShards(tmp_path, hashes=True).keys == whole.keys


def test_a_finished_build_is_left_alone(
    source: Source, images: ImageTokenizer, texts: TextTokenizer, tmp_path: Path
) -> None:
    build(source, tmp_path / "out", images, texts, SETTINGS)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("shard-*/*")}
    build(source, tmp_path / "out", images, texts, SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("shard-*/*")} == times


def test_other_settings_or_files_need_a_restart(
    source: Source, images: ImageTokenizer, texts: TextTokenizer, tmp_path: Path
) -> None:
    build(source, tmp_path / "out", images, texts, SETTINGS)
    other = BuildSettings(preprocessing=Preprocessing(size=18), shard_records=9)
    with pytest.raises(CogViewError, match="--restart"):
        build(source, tmp_path / "out", images, texts, other)
    assert build(source, tmp_path / "out", images, texts, other, restart=True).index.grid == (3, 3)
    assert not (tmp_path / "out" / "shard-00002").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for restart in (False, True):
        with pytest.raises(CogViewError, match=r"not empty \(it holds thesis\.txt\); give a new directory"):
            build(source, tmp_path / "mine", images, texts, SETTINGS, restart=restart)
    with pytest.raises(CogViewError, match=r"not empty \(it holds thesis\.txt\)"):
        build_image_cache(source, tmp_path / "mine", Preprocessing(size=12))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_nothing_usable_is_an_error(images: ImageTokenizer, texts: TextTokenizer, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(CogViewError, match="no usable sample among 1 records"):
        build(open_source(tmp_path / "in"), tmp_path / "out", images, texts, SETTINGS)


def test_the_picture_cache_holds_the_squares(source: Source, tmp_path: Path) -> None:
    cache = build_image_cache(source, tmp_path / "cache", Preprocessing(size=12))
    good = [number for number in range(COUNT) if number not in BAD]
    for place, number in enumerate(good):
        expected = square(noise(20 + number, 30, number), Preprocessing(size=12))
        np.testing.assert_array_equal(cache.images([place])[0].permute(1, 2, 0).numpy(), expected)
    assert cache.index.report.bad == len(BAD)
    before = (tmp_path / "cache" / "images.bin").stat().st_mtime_ns
    build_image_cache(source, tmp_path / "cache", Preprocessing(size=12))
    assert (tmp_path / "cache" / "images.bin").stat().st_mtime_ns == before
    assert build_image_cache(source, tmp_path / "cache", Preprocessing(size=6)).size == 6


def test_a_cache_that_fails_leaves_the_one_before(source: Source, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    before = build_image_cache(source, out, Preprocessing(size=12)).index
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"")
    with pytest.raises(CogViewError, match="no usable image"):
        build_image_cache(open_source(tmp_path / "bad"), out, Preprocessing(size=12))
    assert ImageCache(out).index == before
    assert sorted(path.name for path in out.iterdir()) == ["images.bin", "images.json"]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stop=st.integers(0, 12), batch=st.integers(1, 6))
def test_the_picture_loader_resumes_anywhere(cache: ImageCache, stop: int, batch: int) -> None:
    def take(loader: ImageLoader, count: int) -> list[list[int]]:
        stream = iter(loader)
        return [next(stream)[0]["items"] for _ in range(count)]

    whole = take(ImageLoader(cache, batch, seed=3), stop + 8)
    first = ImageLoader(cache, batch, seed=3)
    take(first, stop)
    assert take(ImageLoader(cache, batch, seed=3, state=first.state), 8) == whole[stop:]
    epoch = [item for items in take(ImageLoader(cache, batch), -(-14 // batch)) for item in items]
    assert sorted(epoch) == list(range(14))


@pytest.fixture(scope="module")
def cache(source: Source, tmp_path_factory: pytest.TempPathFactory) -> ImageCache:
    return build_image_cache(source, tmp_path_factory.mktemp("cache"), Preprocessing(size=12))


def test_a_damaged_cache_is_one_line(source: Source, tmp_path: Path) -> None:
    build_image_cache(source, tmp_path / "cache", Preprocessing(size=12))
    pixels = tmp_path / "cache" / "images.bin"
    pixels.write_bytes(pixels.read_bytes()[:-1])
    with pytest.raises(CogViewError, match="truncated"):
        ImageCache(tmp_path / "cache")
    with pytest.raises(CogViewError, match="no image cache"):
        ImageCache(tmp_path / "nowhere")


# ------------------------------------------------------------------------------------- super-resolution

LARGE = BuildSettings(preprocessing=Preprocessing(size=24), super_resolution=True, shard_records=4, batch=3)


@pytest.fixture(scope="module")
def doubled(
    source: Source, images: ImageTokenizer, texts: TextTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> TokenShards:
    return build(source, tmp_path_factory.mktemp("doubled") / "out", images, texts, LARGE)


def test_large_and_halved_pictures_are_tokenised(doubled: TokenShards, images: ImageTokenizer) -> None:
    """24 px to 4 x 4 codes, and the same squares halved to 12 px to 2 x 2."""
    index = doubled.index
    assert (index.grid, index.context_grid, index.preprocessing.size) == ((4, 4), (2, 2), 24)
    for item in doubled:
        number = int(item.key[:2])
        large = Image.fromarray(square(noise(20 + number, 30, number), Preprocessing(size=24)))
        small = large.resize((12, 12), Image.Resampling.BILINEAR)
        for picture, found in ((large, item.codes), (small, item.context)):
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
            np.testing.assert_array_equal(found, images.encode(pixels)[0].numpy())
    np.testing.assert_array_equal(doubled.context([5, 1]), [doubled[5].context, doubled[1].context])


def test_it_is_another_data_set_than_without(
    whole: TokenShards, doubled: TokenShards, source: Source, images: ImageTokenizer, texts: TextTokenizer
) -> None:
    assert whole.index.context_grid is None
    with pytest.raises(CogViewError, match="no small images; build it again with --super-resolution"):
        whole.context([0])
    other = LARGE.model_copy(update={"super_resolution": False})
    with pytest.raises(CogViewError, match="begun from other data"):
        build(source, doubled.directory, images, texts, other)


def test_pictures_may_be_three_times_smaller(
    images: ImageTokenizer, texts: TextTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / "in" / f"{number}.png").write_bytes(encoded(noise(36 + number, 50, number)))
        (tmp_path / "in" / f"{number}.txt").write_text("a")
    source = open_source(tmp_path / "in")
    thrice = LARGE.model_copy(update={"preprocessing": Preprocessing(size=36), "scale": 3})
    found = build(source, tmp_path / "out", images, texts, thrice)
    assert (found.index.grid, found.index.context_grid) == ((6, 6), (2, 2))
    item = found[3]
    number = int(Path(item.key).stem)
    large = Image.fromarray(square(noise(36 + number, 50, number), Preprocessing(size=36)))
    small = torch.from_numpy(np.array(large.resize((12, 12), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    np.testing.assert_array_equal(item.context, images.encode(small[None].float() / 255)[0].numpy())
    other = thrice.model_copy(update={"preprocessing": Preprocessing(size=24)})
    with pytest.raises(CogViewError, match="4 x 4 codes, which cannot be divided by 3"):
        build(source, tmp_path / "other", images, texts, other)


def test_half_a_code_cannot_be(
    source: Source, images: ImageTokenizer, texts: TextTokenizer, tmp_path: Path
) -> None:
    other = LARGE.model_copy(update={"preprocessing": Preprocessing(size=18)})
    with pytest.raises(CogViewError, match="3 x 3 codes, which cannot be halved"):
        build(source, tmp_path, images, texts, other)


def test_crops_show_the_same_in_both(doubled: TokenShards) -> None:
    """Each crop is a window of its item's codes, and the small picture's part under it; all corners come."""
    corners, rows = set(), []
    loader = TokenLoader(doubled, 4, seed=3, splits=None, crop=(2, 2), epochs=6)
    for batch, state in loader:
        rows.append((batch["codes"].tolist(), state))
        for item, codes, context in zip(batch["items"], batch["codes"], batch["context"], strict=True):
            large = doubled.codes([item])[0].reshape(4, 4)
            small = doubled.context([item])[0].reshape(2, 2)
            found = {
                (top, left)
                for top in (0, 1)
                for left in (0, 1)
                if small[top, left] == context.item()
                and np.array_equal(large[2 * top : 2 * top + 2, 2 * left : 2 * left + 2].ravel(), codes)
            }
            assert found
            corners |= found
    assert len(corners) == 4
    resumed = TokenLoader(doubled, 4, seed=3, splits=None, crop=(2, 2), epochs=6, state=rows[2][1])
    assert [batch["codes"].tolist() for batch, _ in resumed] == [codes for codes, _ in rows[3:]]


def test_a_crop_as_large_as_the_picture_is_the_picture(doubled: TokenShards) -> None:
    batch, _ = next(iter(TokenLoader(doubled, 5, splits=None, crop=(4, 4))))
    np.testing.assert_array_equal(batch["codes"], doubled.codes(batch["items"]))
    np.testing.assert_array_equal(batch["context"], doubled.context(batch["items"]))


@pytest.mark.parametrize("size", [(3, 2), (6, 4)])
def test_crops_that_do_not_fit(doubled: TokenShards, size: tuple[int, int]) -> None:
    with pytest.raises(CogViewError, match="give multiples of 2, at most as large"):
        TokenLoader(doubled, 4, splits=None, crop=size)


def test_what_super_resolution_cannot_learn_from_is_refused(
    images: ImageTokenizer, texts: TextTokenizer, tmp_path: Path
) -> None:
    """At commit a1c147c pictures of 20 pixels were targets of 144: "12 good, 0 rejected"."""
    (tmp_path / "in").mkdir()
    for number, size in enumerate((24, 40, 23, 20)):
        Image.new("RGB", (60, size), (size, 0, 0)).save(tmp_path / "in" / f"{number}.png")
        (tmp_path / "in" / f"{number}.txt").write_text("a")
    source = open_source(tmp_path / "in")
    build(source, tmp_path / "large", images, texts, LARGE)
    report = read_json(Report, tmp_path / "large" / REPORT)
    assert (report.good, report.rejected) == (2, {"too small": 2})
    assert "60 x 23 pixels, at least 24 a side" in report.examples[0].message
    plain = LARGE.model_copy(update={"super_resolution": False})
    assert len(build(source, tmp_path / "small", images, texts, plain)) == 4
