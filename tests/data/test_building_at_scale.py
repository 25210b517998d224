"""Builds by many ranks and processes, killed as often as one likes: the same data set, every sample once."""

import contextlib
import itertools
import multiprocessing
import os
import random
import time
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cogview.data.build import Builder, BuildSettings, Progressed, Share, build
from cogview.data.check import check
from cogview.data.decoders import Decoders
from cogview.data.image_cache import build_image_cache
from cogview.data.images import Limits, square
from cogview.data.launchers import rank_here
from cogview.data.shards import Preprocessing, TokenShards
from cogview.data.sources import Source, open_source
from cogview.errors import CogViewError
from cogview.tokenizers.text import TextTokenizer
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig

from .test_images import bomb, encoded, noise

SETTINGS = BuildSettings(preprocessing=Preprocessing(size=12), shard_records=3, batch=2)
COUNT, BAD, TWICE = 17, (3, 8), {11: 2, 16: 15}  # 11 has the key of 2 in another block, 16 that of 15


@pytest.fixture(scope="module")
def images() -> ImageTokenizer:
    config = ImageTokenizerConfig(
        image_size=12, factors=(3, 2), channels=(8, 8), blocks=(0, 0), attention=False, codes=16, code_dim=4
    )
    return ImageTokenizer(config).eval()


@pytest.fixture(scope="module")
def texts() -> TextTokenizer:
    return TextTokenizer.train([f"a picture of number {n} 图片{n}号" for n in range(200)], 300)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventeen rows: two broken pictures, two repeated keys, languages and splits that come late."""
    root = tmp_path_factory.mktemp("table")
    rows = ["id,image,en,zh,split"]
    for number in range(COUNT):
        data = encoded(noise(20 + number, 30, number))
        (root / f"{number}.png").write_bytes(data[: 200 if number in BAD else None])
        english = f"picture {number}" if number % 4 else ""
        chinese = f"图片{number}" if number > 4 or not english else ""
        split = "val" if number in (1, 9) else "train"
        rows.append(f"k{TWICE.get(number, number)},{number}.png,{english},{chinese},{split}")
    (root / "table.csv").write_text("\n".join(rows), "utf-8")
    return root / "table.csv"


@pytest.fixture(scope="module")
def source(table: Path) -> Source:
    return open_source(table)


@pytest.fixture(scope="module")
def whole(
    source: Source, images: ImageTokenizer, texts: TextTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> TokenShards:
    """By one rank, in one process, in one go."""
    return build(source, tmp_path_factory.mktemp("whole"), images, texts, SETTINGS)


def same(found: TokenShards, expected: TokenShards) -> bool:
    reports = [(shards.directory / "report.json").read_text() for shards in (found, expected)]
    TokenShards(found.directory, hashes=True)
    return found.index == expected.index and reports[0] == reports[1]


def test_every_good_sample_is_there_once_and_of_a_key_the_first(
    whole: TokenShards, texts: TextTokenizer
) -> None:
    good = [number for number in range(COUNT) if number not in BAD and number not in TWICE]
    assert whole.keys == [f"k{number}" for number in good]
    for item, number in zip(whole, good, strict=True):
        said = {(texts.decode(caption.pieces), caption.language) for caption in item.captions}
        expected = {(f"picture {number}", "en")} if number % 4 else set()
        expected |= {(f"图片{number}", "zh")} if number > 4 or not number % 4 else set()
        assert said == expected
        assert item.split == ("val" if number in (1, 9) else "train")
    assert whole.index.splits == {"train": 11, "val": 2}


def test_repeated_keys_are_told(whole: TokenShards) -> None:
    report = (whole.directory / "report.json").read_text()
    assert '"duplicate key": 2' in report and "'k2' was there before" in report and '"good": 13' in report


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ranks=st.integers(1, 8), order=st.randoms(use_true_random=False), stop=st.integers(0, 16))
def test_any_number_of_ranks_in_any_order_with_a_stop_gives_the_same(
    source: Source,
    images: ImageTokenizer,
    texts: TextTokenizer,
    whole: TokenShards,
    tmp_path_factory: pytest.TempPathFactory,
    ranks: int,
    order: random.Random,
    stop: int,
) -> None:
    out = tmp_path_factory.mktemp("ranks")

    class Stopped(Exception):
        pass

    def stopping(done: int, total: int) -> None:
        if done > stop:
            raise Stopped

    first = order.randrange(5)  # begun by other numbers of ranks, one of which is stopped
    with contextlib.suppress(Stopped):
        Builder(source, out, images, texts, SETTINGS, Share(first, 5)).run(progress=stopping)
    places = list(range(ranks))
    order.shuffle(places)
    found = [Builder(source, out, images, texts, SETTINGS, Share(rank, ranks)).run() for rank in places]
    assert found[-1].report is not None and found[-1].done == found[-1].blocks == 6
    assert same(TokenShards(out), whole)


def test_ranks_that_are_not_done_leave_no_data_set(
    source: Source, images: ImageTokenizer, texts: TextTokenizer, tmp_path: Path
) -> None:
    found = Builder(source, tmp_path / "out", images, texts, SETTINGS, Share(0, 2)).run()
    assert found == Progressed(3, 6, None)
    with pytest.raises(CogViewError, match="the build is not finished"):
        TokenShards(tmp_path / "out")
    with pytest.raises(CogViewError, match="--restart with several ranks"):
        Builder(source, tmp_path / "out", images, texts, SETTINGS, Share(0, 2)).run(restart=True)
    with pytest.raises(CogViewError, match="rank 2 of 2"):
        Share(2, 2)


def test_more_ranks_than_shards(
    source: Source, images: ImageTokenizer, texts: TextTokenizer, whole: TokenShards, tmp_path: Path
) -> None:
    for rank in range(9):
        Builder(source, tmp_path / "out", images, texts, SETTINGS, Share(rank, 9)).run()
    assert same(TokenShards(tmp_path / "out"), whole)


def test_processes_decode_the_same(
    source: Source, images: ImageTokenizer, texts: TextTokenizer, whole: TokenShards, tmp_path: Path
) -> None:
    build(source, tmp_path / "out", images, texts, SETTINGS.model_copy(update={"workers": 2}))
    assert same(TokenShards(tmp_path / "out"), whole)


def test_a_source_that_ends_early_is_told(
    images: ImageTokenizer, texts: TextTokenizer, table: Path, tmp_path: Path
) -> None:
    source = open_source(table)

    class Shorter:
        def __len__(self) -> int:
            return len(source)

        def fingerprint(self) -> str:
            return source.fingerprint()

        def records(self, start: int = 0):  # type: ignore[no-untyped-def]
            return itertools.islice(source.records(start), max(0, 10 - start))

    with pytest.raises(CogViewError, match="the source ended after 10 of 17 records"):
        build(Shorter(), tmp_path / "out", images, texts, SETTINGS)


# ---------------------------------------------------------------------------------------------- decoders


@cache
def heavy(side: int = 6000) -> bytes:
    """A small file of a large picture: well under a second to decode, but far more than a millisecond."""
    return encoded(Image.new("L", (side, side)), "PNG")


def read(root: Path, limits: Limits, workers: int) -> tuple[list[str], dict[str, str]]:
    with Decoders(limits, Preprocessing(size=12), workers) as decoders:
        found = list(decoders.readings(open_source(root).records()))
    good = [record.key for record, reading in found if reading.sample]
    return good, {r.key: found.rejection.reason for r, found in found if found.rejection}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(encoded(noise(20, 30, number)))
        (tmp_path / f"{number}.txt").write_text(f"picture {number}")
    return tmp_path


def test_a_picture_that_takes_too_long_is_named_and_the_rest_goes_on(pictures: Path) -> None:
    (pictures / "2.png").write_bytes(heavy(8_000))
    limits = Limits(seconds=0.05, max_pixels=10**9)
    good, bad = read(pictures, limits, 1)
    assert bad["2.png"] == "too slow" and {"0.png", "1.png", "3.png", "4.png", "5.png"} >= set(good)
    assert set(good) | set(bad) == {f"{number}.png" for number in range(6)}


def test_a_picture_that_needs_too_much_memory_is_named(pictures: Path) -> None:
    (pictures / "2.png").write_bytes(heavy(7_500))  # 56 MB of grey, 225 MB of colour
    (pictures / "4.png").write_bytes(bomb(60_000, 60_000))
    good, bad = read(pictures, Limits(max_memory=256 << 20, max_pixels=10**9), 2)
    assert bad == {"2.png": "too much memory", "4.png": "too many pixels"}
    assert good == ["0.png", "1.png", "3.png", "5.png"]


def test_processes_give_what_this_process_gives_in_order(pictures: Path) -> None:
    (pictures / "3.png").write_bytes(b"nothing")
    (pictures / "5.txt").unlink()
    assert read(pictures, Limits(), 2) == read(pictures, Limits(), 0)
    with Decoders(Limits(), Preprocessing(size=12), 2) as decoders:
        found = [reading for _, reading in decoders.readings(open_source(pictures).records())]
    for number in (0, 1, 2, 4):
        sample = found[number].sample
        assert sample is not None
        expected = square(noise(20, 30, number), Preprocessing(size=12))
        np.testing.assert_array_equal(np.asarray(sample.image), expected)
        assert found[number].bytes == (pictures / f"{number}.png").stat().st_size


def test_check_names_them_too(pictures: Path) -> None:
    (pictures / "2.png").write_bytes(heavy(7_500))
    report = check(open_source(pictures), Limits(max_memory=256 << 20, max_pixels=10**9), workers=1)
    assert (report.good, report.rejected) == (5, {"too much memory": 1})
    assert report.examples[0].place == str(pictures / "2.png")


def test_a_picture_cache_leaves_them_out(pictures: Path, tmp_path: Path) -> None:
    (pictures / "2.png").write_bytes(heavy(7_500))
    limits, squares = Limits(max_memory=256 << 20, max_pixels=10**9), Preprocessing(size=12)
    cache = build_image_cache(open_source(pictures), tmp_path / "cache", squares, limits, workers=1)
    assert cache.index.report.rejected == {"too much memory": 1}
    kept = [number for number in range(6) if number != 2]
    expected = [square(noise(20, 30, number), squares) for number in kept]
    np.testing.assert_array_equal(cache.images(range(5)).permute(0, 2, 3, 1), np.stack(expected))


# ---------------------------------------------------------------------------------------------- ranks, kills


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, (3, 8)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}, (1, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (0, 1)),  # in a batch script, outside any step
        ({"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "5"}, (2, 5)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, (1, 2)),
    ],
)
def test_launchers_say_the_rank(environment: dict[str, str], expected: tuple[int, int]) -> None:
    assert rank_here(environment) == expected


KILLS = int(os.environ.get("COGVIEW_KILLS", "2"))


def build_rank(parts: Path, out: Path, rank: int, ranks: int = 2) -> None:
    """One rank of a build from what lies in ``parts``, in a process of its own."""
    torch.set_num_threads(1)
    images, texts = (
        ImageTokenizer.from_directory(parts / "images"),
        TextTokenizer.from_file(parts / "texts.model"),
    )
    settings = SETTINGS.model_copy(update={"shard_records": 2, "workers": 1})
    Builder(open_source(parts / "pictures"), out, images, texts, settings, Share(rank, ranks)).run()


def test_killed_builds_on_two_ranks_end_the_same(
    images: ImageTokenizer, texts: TextTokenizer, tmp_path: Path
) -> None:
    """kill -9 at random moments: while decoding, encoding, writing, joining. COGVIEW_KILLS=100 for many."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["torch", "tests.data.test_building_at_scale"])
    (tmp_path / "pictures").mkdir()
    for number in range(40):
        (tmp_path / "pictures" / f"{number:03d}.png").write_bytes(encoded(noise(20, 30, number)))
        (tmp_path / "pictures" / f"{number:03d}.txt").write_text(f"picture {number}\n")
    images.save(tmp_path / "images")
    texts.save(tmp_path / "texts.model")
    build_rank(tmp_path, tmp_path / "whole", 0, 1)
    chance, kills, builds = random.Random(0), 0, 0
    out = tmp_path / "killed-0"
    while kills < KILLS or not (out / "index.json").is_file():
        out = tmp_path / f"killed-{builds}"
        ranks = [processes.Process(target=build_rank, args=(tmp_path, out, rank)) for rank in (0, 1)]
        for process in ranks:
            process.start()
        before, wanted = _done(out), chance.randrange(14)
        while kills < KILLS and _done(out) < before + wanted and all(map(_lives, ranks)):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        for process in ranks:
            if kills < KILLS and process.is_alive():
                process.kill()
                kills += 1
            process.join()
            assert process.exitcode in (0, -9)
        if (out / "index.json").is_file():
            assert same(TokenShards(out), TokenShards(tmp_path / "whole"))
            builds += 1


def _done(out: Path) -> int:
    return len(list(out.glob("shard-*/block.json")))


def _lives(process: BaseProcess) -> bool:
    return process.is_alive()
