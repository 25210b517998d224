"""Files that are whole or not there, on a disk that is full."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogview.cli.output import write, write_rows, write_sheet
from cogview.errors import CogViewError
from cogview.files import write_file, write_image, write_new
from cogview.pipelines.base import GeneratedImage


@contextmanager
def full_disk(size: int = 500) -> Iterator[None]:
    """Within, no file can grow over ``size`` bytes: a write stops in the middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def picture() -> GeneratedImage:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    codes = np.zeros(4, dtype=np.int64)
    return GeneratedImage(Image.fromarray(pixels), codes, "a", "a", 0, 0, {}, "tiny", "0" * 64)


def test_a_full_disk_leaves_no_part_of_a_picture(picture: GeneratedImage, tmp_path: Path) -> None:
    rows = [np.asarray(picture.image)[None]]
    for attempt in (
        lambda: write(picture.png(), tmp_path, "a"),
        lambda: write_sheet([picture], 1, tmp_path),
        lambda: picture.save(tmp_path / "b.png"),
        lambda: write_rows(tmp_path / "c.png", rows),
    ):
        with full_disk(), pytest.raises(CogViewError, match="cannot be written"):
            attempt()
        assert list(tmp_path.iterdir()) == []
    assert write(picture.png(), tmp_path, "a").name == "a.png"  # and not a-2


def test_what_was_there_stays_where_a_write_fails(picture: GeneratedImage, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture.save(path)
    before = path.read_bytes()
    with full_disk():
        for attempt in (lambda: write_file(path, b"x" * 999), lambda: write_image(path, picture.image)):
            with pytest.raises(OSError) as caught:
                attempt()
            assert caught.value.filename == str(path)  # for the error line
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_devices_and_pipes_stay_and_links_are_followed(tmp_path: Path) -> None:
    """Root, as in containers, could replace /dev/null by a file."""
    null, pipe = tmp_path / "null", tmp_path / "pipe"
    null.symlink_to("/dev/null")
    os.mkfifo(pipe)
    for path, what in ((Path("/dev/null"), "a device"), (null, "a device"), (pipe, "a pipe")):
        with pytest.raises(CogViewError, match=f"cannot be written \\({what}, not a file\\)"):
            write_file(path, b"x")
    assert Path("/dev/null").is_char_device() and null.is_symlink() and pipe.is_fifo()

    (tmp_path / "disk").mkdir()
    link, there = tmp_path / "link", tmp_path / "disk" / "there"
    link.symlink_to(there)
    for content in (b"1", b"2"):  # where nothing is yet, too
        write_file(link, content)
        assert link.is_symlink() and there.read_bytes() == content
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["disk", "link", "null", "pipe", "there"]


def test_the_same_content_keeps_its_name_and_another_gets_the_next(tmp_path: Path) -> None:
    def name(number: int) -> Path:
        return tmp_path / f"{number}.png"

    assert [write_new(name, content).name for content in (b"a", b"b", b"a", b"b", b"c")] == [
        "1.png", "2.png", "1.png", "2.png", "3.png",
    ]  # fmt: skip
    (tmp_path / "4.png").symlink_to(tmp_path / "nowhere")
    assert write_new(name, b"d").name == "5.png"
    assert len(list(tmp_path.iterdir())) == 5
