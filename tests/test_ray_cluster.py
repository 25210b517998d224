"""Work spread over Ray's workers: every part, picture and sample once, whoever dies."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cogview.cli.app import main
from cogview.data.shards import TokenShards
from cogview.errors import CogViewError
from cogview.pipelines.base import GeneratedImage
from cogview.pipelines.model import Pipeline
from cogview.pipelines.parts import PartWriter, generate_parts
from cogview.pipelines.task_requests import GenerateRequest
from cogview.ray_cluster import connected, spread
from tests.data.test_images import encoded, noise
from tests.generation import tiny

pytestmark = pytest.mark.slow
KILLED = (1, 4, 5)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with connected(workers=2) as ray:
        yield ray


def killing(folder: Path) -> Callable[[int], int]:
    """A worker that is killed the first time it is given one of some parts, and says which it began."""
    (folder / f"worker-{os.getpid()}").touch()

    def run(part: int) -> int:
        if part in KILLED and not (folder / f"killed-{part}").exists():
            (folder / f"killed-{part}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return part * part

    return run


def test_every_part_is_done_once_whatever_workers_are_killed(ray: Any, tmp_path: Path) -> None:
    found = list(spread(ray, partial(killing, tmp_path), range(8), 2))
    assert Counter(found) == Counter(number**2 for number in range(8))
    assert len(list(tmp_path.glob("worker-*"))) == 2 + len(KILLED)


def refusing() -> Callable[[int], int]:
    def run(part: int) -> int:
        raise CogViewError("the folder is full", field="out")

    return run


def test_an_error_of_a_worker_is_raised_here(ray: Any) -> None:
    with pytest.raises(CogViewError, match="the folder is full") as caught:
        list(spread(ray, refusing, [1]))
    assert caught.value.field == "out"


def test_connections_are_shared(ray: Any) -> None:
    with connected("nowhere:1") as again:
        assert again is ray
    assert ray.is_initialized()


# ---------------------------------------------------------------------------------------------- generating

PROMPTS = [f"{'a red circle' if number % 2 else '蓝色的方块'}" for number in range(5)]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("family"))


class Killed(PartWriter):
    """A writer that is killed the first time it has written some files, in the midst of their part."""

    def keep(self, path: Path, image: GeneratedImage) -> None:
        super().keep(path, image)
        mark = self.folder.with_name(f"killed-{path.name}")
        if path.name in ("0000000-00.png", "0000003-31.png") and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def whole(folder: Path) -> dict[str, bytes]:
    """The files of all parts, by name; every name is there once."""
    files = sorted(folder.glob("part-*/*.png"))
    assert len({path.name for path in files}) == len(files)
    return {path.name: path.read_bytes() for path in files}


def test_every_picture_is_there_once_whatever_workers_are_killed(
    ray: Any, family: Path, tmp_path: Path
) -> None:
    """Parts of two prompts of 32 pictures; what is there equals what one process generates."""
    request = GenerateRequest(n=32, seed=3)
    done = list[tuple[int, int]]()

    def spreading(work: PartWriter, parts: Any) -> Iterator[int]:
        return spread(ray, work, parts, 2)

    work = Killed(tmp_path / "out", partial(Pipeline.from_pretrained, family), request)
    plan = generate_parts(work, PROMPTS, {}, spreading, lambda *now: done.append(now))
    assert len(list(tmp_path.glob("killed-*"))) == 2 and done[-1] == (160, 160) and plan.images == 160
    found = whole(tmp_path / "out")
    expected = Pipeline.from_pretrained(family).generate(PROMPTS, 32, 3)
    assert list(found) == [f"{prompt:07d}-{index:02d}.png" for prompt in range(5) for index in range(32)]
    assert [Image.open(io.BytesIO(data)).tobytes() for data in found.values()] == [
        one.image.tobytes() for one in expected
    ]
    lines = [
        json.loads(line) for path in sorted(tmp_path.glob("out/part-*/images.jsonl")) for line in path.open()
    ]
    assert [(line["file"], line["prompt"], line["index"]) for line in lines] == [
        (name, one.prompt, one.index) for name, one in zip(found, expected, strict=True)
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "generation.json", *(f"part-{number:06d}" for number in range(3))
    }  # fmt: skip


def test_the_command_goes_on_where_it_was_stopped(
    ray: Any, family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), "utf-8")
    words = ["--prompts", str(tmp_path / "prompts.txt"), "--model", str(family), "-n", "40", "--json"]
    command = ["generate", *words, "-o", str(tmp_path / "out"), "--ray", "local", "--ray-workers", "2"]
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out)
    before = whole(tmp_path / "out")
    assert said["pictures"] == len(before) == 200
    shutil.rmtree(tmp_path / "out" / "part-000001")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/part-*/*")}
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == said["seed"]
    assert whole(tmp_path / "out") == before and len(times) < len(before)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for more, why in (
        (["--seed", str(said["seed"] + 1)], "it holds other images"),
        (["--top-k", "3"], "it holds other images"),
        (["--grid"], "contact sheets are not supported with --ray"),
    ):
        assert main([*command, *more]) == 2 and why in capsys.readouterr().err
    assert main(["generate", "x", "--ray-workers", "2"]) == 2 and "give --ray" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- building


def test_a_build_on_workers_is_the_build_of_one_process(
    ray: Any, family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(17):
        data = encoded(noise(20, 30, number))[: 200 if number == 3 else None]
        (tmp_path / "pictures" / f"{number:02d}.png").write_bytes(data)
        (tmp_path / "pictures" / f"{number:02d}.txt").write_text(f"picture {number}")
    shared = ["--tokenizers", str(family), "--shard-records", "3", "--batch", "2"]
    command = ["data", "build", str(tmp_path / "pictures")]
    assert main([*command, str(tmp_path / "one"), *shared, "--workers", "0"]) == 0
    spread_out = [*command, str(tmp_path / "many"), *shared, "--ray", "local", "--ray-workers", "2"]
    assert main([*spread_out, "--rank", "0", "--ranks", "2"]) == 2
    assert "leave out --rank and --ranks" in capsys.readouterr().err
    assert main(spread_out) == 0
    one, many = (TokenShards(tmp_path / name, hashes=True) for name in ("one", "many"))
    assert one.index == many.index and len(many) == 16
    reports = [(shards.directory / "report.json").read_text() for shards in (one, many)]
    assert reports[0] == reports[1]
