"""Inputs that once broke the program, each by its name; they are run with every run of the suite."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.hostile.bases import Bases
from tests.hostile.generators import (
    Generator,
    chunk,
    data_verb,
    gz,
    put_strange,
    refusing,
    use_cache,
    write,
)
from tests.hostile.sandbox import Work, command

CASES: dict[str, Generator] = {}


def case(make: Generator) -> Generator:
    """Register a case under the function's name."""
    CASES[make.__name__] = make
    return make


def check(path: Path) -> Work:
    return command(["data", "check", str(path), "--workers", "0"])


@case
def tar_of_members_that_are_no_pictures(chance: random.Random, bases: Bases, folder: Path) -> Work:
    zeros, head = bytes(16 << 20), tarfile.TarInfo("a.bin")
    head.size = 256 << 20
    return check(write(folder / "a.tar.gz", gz(*[head.tobuf(), *[zeros] * 16] * 8)))


def tokenizer(changes: dict[str, object]) -> Generator:
    def make(chance: random.Random, bases: Bases, folder: Path) -> Work:
        shutil.copytree(bases.family, folder / "m")
        path = folder / "m" / "image_tokenizer" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return command(["generate", "a", "--model", str(folder / "m"), "-o", "out"])

    return make


for _name, _changes in {
    "a_million_blocks": {"blocks": [1_000_000, 0]},
    "a_billion_codes": {"codes": 10**9},
    "a_billion_channels": {"channels": [10**9, 8]},
    "codes_of_a_billion": {"code_dim": 10**9},
    "four_thousand_blocks_that_are_not_there": {"blocks": [64, 64]},
    "a_hierarchy_that_is_not_there": {"architecture": "hierarchical"},
}.items():
    CASES[_name] = tokenizer(_changes)


@case
def nine_bytes_of_pickle_in_an_lmdb(chance: random.Random, bases: Bases, folder: Path) -> Work:
    import lmdb

    with lmdb.open(str(folder / "x"), map_size=1 << 20) as environment, environment.begin(write=True) as put:
        put.put(b"length", b"1")
        put.put(b"0", b"\x80\x02Nr" + struct.pack("<I", 2**31 - 1) + b".")
    return command(["data", "convert", str(folder / "x"), "out", "--tokenizers", str(bases.family)])


@case
def nine_bytes_of_pickle_as_lpips(chance: random.Random, bases: Bases, folder: Path) -> Work:
    path = write(folder / "a.ckpt", b"\x80\x02Nr" + struct.pack("<I", 2**31 - 1) + b".")
    return command(["import", "lpips", str(path), "out.safetensors", "--network", "vgg16"])


@case
def a_number_of_five_thousand_digits(chance: random.Random, bases: Bases, folder: Path) -> Work:
    shutil.copytree(bases.family, folder / "m")
    path = folder / "m" / "family.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": ' + "9" * 5000))
    return command(["generate", "a", "--model", str(folder / "m"), "-o", "out"])


def strange(verb: Callable[[Bases, Path], Work], name: str, way: int) -> Generator:
    class Fixed(random.Random):
        def randrange(self, *_: object, **__: object) -> int:
            return way

    def make(chance: random.Random, bases: Bases, folder: Path) -> Work:
        path = write(folder / name, b"")
        put_strange(path, Fixed())
        return verb(bases, path)

    return make


for _way, _what in ((0, "a_pipe"), (1, "dev_zero")):
    CASES[f"{_what}_as_table"] = strange(lambda bases, path: check(path), "t.csv", _way)
    CASES[f"{_what}_as_archive"] = strange(lambda bases, path: check(path), "t.tar.gz", _way)
    CASES[f"{_what}_as_zip"] = strange(lambda bases, path: check(path), "t.zip", _way)
    CASES[f"{_what}_as_recipe"] = strange(lambda bases, path: command(["train", str(path)]), "r.yaml", _way)
    CASES[f"{_what}_as_checkpoint"] = strange(
        lambda bases, path: command(["import", "inception", str(path), "o"]), "w.pt", _way
    )


@case
def a_pipe_in_a_model(chance: random.Random, bases: Bases, folder: Path) -> Work:
    shutil.copytree(bases.family, folder / "m")
    for name in ("text.model", "image_tokenizer/model.safetensors", "base/model.safetensors")[:1]:
        (folder / "m" / name).unlink()
        os.mkfifo(folder / "m" / name)
    return command(["generate", "a", "--model", str(folder / "m"), "-o", "out"])


@case
def a_name_with_a_zero_byte(chance: random.Random, bases: Bases, folder: Path) -> Work:
    shutil.copytree(bases.family, folder / "m")
    path = folder / "m" / "family.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text_tokenizer": "a\x00b"}))
    return command(["generate", "a", "--model", str(folder / "m"), "-o", "out"])


@case
def names_in_gbk(chance: random.Random, bases: Bases, folder: Path) -> Work:
    inside = os.fsencode(folder) + b"/set"
    os.mkdir(inside)
    for suffix in (b".png", b".txt"):
        shutil.copy(bases.pictures / ("0" + suffix.decode()), inside + b"/" + "你好".encode("gbk") + suffix)
    return data_verb(chance, bases, os.fsdecode(inside))


@case
def a_report_of_names_in_latin_1(chance: random.Random, bases: Bases, folder: Path) -> Work:
    shutil.copy(bases.pictures / "0.png", os.fsencode(folder) + b"/\xe9t\xe9.png")
    return command(["report", os.fsdecode(os.fsencode(folder) + b"/\xe9t\xe9.png")])


@case
def a_recipe_of_sixty_thousand_keys(chance: random.Random, bases: Bases, folder: Path) -> Work:
    return command(["train", str(write(folder / "r.yaml", b"".join(b"k%d: 1\n" % i for i in range(60_000))))])


def recipe(text: str) -> Generator:
    def make(chance: random.Random, bases: Bases, folder: Path) -> Work:
        return command(["train", str(write(folder / "r.yaml", text.encode()))])

    return make


_ALIASES = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
for _name, _text in {
    "a_task_that_is_a_mapping": "task: {}\n",
    "a_tag_bool": "task: !!bool x\n",
    "a_tag_timestamp": "task: !!timestamp x\n",
    "a_huge_number_in_yaml": f"task: transformer\nsteps: {'9' * 4000}\n",
    "aliases_of_aliases": _ALIASES,
}.items():
    CASES[_name] = recipe(_text)


@case
def a_zip_of_lzma_cut_short(chance: random.Random, bases: Bases, folder: Path) -> Work:
    import zipfile

    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        file.write(bases.pictures / "0.png", "a.png")
        file.writestr("a.txt", "a cat")
    data = bytearray(path.read_bytes())
    data[60:90] = b"\xff" * 30
    path.write_bytes(data)
    return check(path)


@case
def a_pax_size_below_zero(chance: random.Random, bases: Bases, folder: Path) -> Work:
    info = tarfile.TarInfo("a.png")
    info.pax_headers = {"size": "-5"}
    return check(write(folder / "a.tar", info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)))


@case
def ten_thousand_nested_headers(chance: random.Random, bases: Bases, folder: Path) -> Work:
    inner = tarfile.TarInfo("x")
    inner.type, inner.size = tarfile.GNUTYPE_LONGNAME, 10
    return check(
        write(folder / "a.tar.gz", gzip.compress((inner.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 10_000))
    )


@case
def coco_ids_that_are_lists(chance: random.Random, bases: Bases, folder: Path) -> Work:
    told = {"images": [{"id": [1], "file_name": "0.png"}], "annotations": [{"image_id": [1], "caption": "a"}]}
    return check(write(folder / "t.json", json.dumps(told).encode()))


@case
def parquet_dates_out_of_range(chance: random.Random, bases: Bases, folder: Path) -> Work:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    stamps = pa.array([2**62, 1], pa.timestamp("us"))
    image = [{"bytes": (bases.pictures / "0.png").read_bytes(), "path": None}] * 2
    parquet.write_table(pa.table({"image": image, "caption": ["a", "b"], "id": stamps}), folder / "x.parquet")
    return check(folder / "x.parquet")


@case
def an_lmdb_cut_short(chance: random.Random, bases: Bases, folder: Path) -> Work:
    shutil.copytree(bases.lmdb, folder / "x")
    data = (folder / "x" / "data.mdb").read_bytes()
    (folder / "x" / "data.mdb").write_bytes(data[: len(data) // 2])
    return command(["data", "convert", str(folder / "x"), "out", "--tokenizers", str(bases.family)])


@case
def an_lmdb_of_thirty_digits(chance: random.Random, bases: Bases, folder: Path) -> Work:
    import lmdb

    with lmdb.open(str(folder / "x"), map_size=1 << 20) as environment, environment.begin(write=True) as put:
        put.put(b"length", b"9" * 30)
    return command(["data", "convert", str(folder / "x"), "out", "--tokenizers", str(bases.family)])


@case
def shards_that_lie_consistently(chance: random.Random, bases: Bases, folder: Path) -> Work:
    from tests.hostile.generators import settle, use_shards

    shutil.copytree(bases.shards, folder / "s")
    path = next((folder / "s").rglob("items.bin"))
    path.write_bytes(b"\xff" * len(path.read_bytes()))
    settle(folder / "s")
    return lambda: refusing(lambda: use_shards(folder / "s"))


@case
def a_flipped_bit_in_the_metrics(chance: random.Random, bases: Bases, folder: Path) -> Work:
    shutil.copytree(bases.run, folder / "run")
    path = folder / "run" / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"step"', b'"stes"', 1).replace(b'"kind"', b'"kinc"', 2))
    return command(["report", str(folder / "run")])


@case
def a_picture_of_one_by_sixty_million_pixels(chance: random.Random, bases: Bases, folder: Path) -> Work:
    head = struct.pack(">IIBBBBB", 1, 60_000_000, 8, 2, 0, 0, 1)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6)))
    path = write(folder / "p.png", data + chunk(b"IEND", b""))
    return command(["caption", str(path), "--model", str(bases.family)])


@case
def a_table_of_lists_in_lists(chance: random.Random, bases: Bases, folder: Path) -> Work:
    deep = "[" * 600 + "]" * 600
    line = f'{{"image": "{bases.pictures / "0.png"}", "caption": "a cat", "more": {deep}}}\n'
    return check(write(folder / "t.jsonl", line.encode()))


@case
def a_cache_with_a_number_of_twenty_digits(chance: random.Random, bases: Bases, folder: Path) -> Work:
    shutil.copytree(bases.cache, folder / "c")
    path = folder / "c" / "images.json"
    index = json.loads(path.read_text("utf-8"))
    index["item_splits"][0] = 10**20
    path.write_text(json.dumps(index), "utf-8")
    return lambda: refusing(lambda: use_cache(folder / "c"))


@case
def a_checkpoint_that_asks_for_eight_exabytes(chance: random.Random, bases: Bases, folder: Path) -> Work:
    import numpy as np
    import torch

    class Huge:
        def __reduce__(self) -> tuple[object, ...]:
            return np._core.multiarray._reconstruct, (np.ndarray, (2**63 - 1,), b"b")

    torch.save({"module": Huge()}, folder / "a.pt")
    return command(["import", "lpips", str(folder / "a.pt"), "out.safetensors", "--network", "vgg16"])
