"""Cases: each writes hostile files into a folder and says what to run on them."""

# ruff: noqa: E501 - lists of hostile values, one a line as far as they go
from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import random
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import PngImagePlugin

from tests.hostile import bases as made
from tests.hostile import mutate, sandbox
from tests.hostile.bases import Bases
from tests.hostile.sandbox import Work, command

Generator = Callable[[random.Random, Bases, Path], Work]
KINDS: dict[str, Generator] = {}
PAYLOAD = f"touch {sandbox.CANARY}"


def kind(make: Generator) -> Generator:
    """Register a kind of case under the function's name."""
    KINDS[make.__name__] = make
    return make


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# ------------------------------------------------------------------------------------------------ models


def model_verb(chance: random.Random, bases: Bases, family: Path) -> Work:
    """Something that reads a model."""
    image = str(bases.pictures / "0.png")
    name = ["--model", str(family)]
    verbs = [
        ["generate", "a red circle", *name, "-o", "out"],
        ["generate", "a red circle", *name, "--style", "pixel", "-o", "out", "--best-of", "2"],
        ["generate", "蓝色的方块", *name, "-n", "2", "--upscale", "2", "-o", "out", "--json"],
        ["caption", image, *name], ["score", image, "--text", "a red circle", *name],
        ["upscale", image, "--prompt", "a", *name, "-o", "out"],
        ["edit", image, "a red circle", "--box", "0,0,50%,50%", *name, "-o", "out"],
        ["serve", str(family), "--port", "0", "--check"],
        ["data", "build", str(bases.pictures), "built", "--tokenizers", str(family), "--workers", "0"],
        ["eval", "tokenizer", "--tokenizer", str(family / "image_tokenizer"), "--data", str(bases.pictures), "--split", ""],
        ["report", str(family)], ["models"],
    ]  # fmt: skip
    return command(chance.choice(verbs[:8] if chance.random() < 0.75 else verbs))


def copied(chance: random.Random, bases: Bases, folder: Path) -> Path:
    family = folder / "model"
    shutil.copytree(chance.choice([bases.family, bases.editor]), family)
    return family


@kind
def model_configs(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """A model's JSON."""
    family = copied(chance, bases, folder)
    path = chance.choice(sorted(family.rglob("*.json")))
    value = json.loads(path.read_text("utf-8"))
    path.write_bytes(mutate.as_json(mutate.mutated(value, chance), chance))
    return model_verb(chance, bases, family)


@kind
def model_weights(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """A model's safetensors: header or numbers."""
    family = copied(chance, bases, folder)
    path = chance.choice(sorted([*family.rglob("*.safetensors"), *family.rglob("*.model")]))
    data = path.read_bytes()
    if path.suffix == ".safetensors" and chance.random() < 0.6:
        size = int.from_bytes(data[:8], "little")
        head = mutate.as_json(mutate.mutated(json.loads(data[8 : 8 + size]), chance), chance)
        length = chance.choice([len(head), len(head), len(head), 0, 2**63, 2**64 - 1, 10**8, len(head) + 1])
        data = length.to_bytes(8, "little") + head + data[8 + size :]
    else:
        data = mutate.in_head(data, chance)
    path.write_bytes(data)
    return model_verb(chance, bases, family)


@kind
def numbers(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """Weights that are no numbers, or too large ones."""
    from safetensors.torch import load_file, save_file

    family = copied(chance, bases, folder)
    path = chance.choice(sorted(family.rglob("*.safetensors")))
    tensors = load_file(path)
    for name in chance.sample(sorted(tensors), min(3, len(tensors))):
        value = chance.choice([float("nan"), float("inf"), -float("inf"), 6e4, 0.0])
        tensors[name] = (
            tensors[name].clone().fill_(value) if tensors[name].is_floating_point() else tensors[name] * 99
        )
    save_file(tensors, path)
    return model_verb(chance, bases, family)


FAMILY, EDITOR, PICTURES, PICTURE = "@family", "@editor", "@pictures", "@pictures/0.png"
COMMANDS = (
    ["generate", "a red circle", "--model", FAMILY, "-o", "out"],
    ["edit", PICTURE, "a circle", "--box", "0,0,5,5", "--model", EDITOR, "-o", "out"],
    ["upscale", PICTURE, "--model", FAMILY, "-o", "out"],
    ["caption", PICTURE, "--model", FAMILY],
    ["score", PICTURE, "--text", "a red circle", "--model", FAMILY],
    ["rerank", "a red circle", PICTURE, "@pictures/1.png", "--model", FAMILY],
    ["serve", FAMILY, "--port", "0", "--check"],
    ["data", "check", PICTURES, "--workers", "0"],
    ["data", "cache", PICTURES, "out", "--size", "16", "--workers", "0"],
    ["data", "build", PICTURES, "out", "--tokenizers", FAMILY, "--workers", "0"],
    ["data", "text-tokenizer", PICTURES, "out.model", "--pieces", "290"],
    ["train", "@recipe.yaml", "--out", "out"],
    ["train-on", PICTURES, "--out", "out", "--from", FAMILY, "--plan"],
    ["assemble", "out", "--from", FAMILY],
    ["export", "onnx", FAMILY, "out"],
    ["plan", "@recipe.yaml"],
    ["report", "@run", "-o", "out.html"],
    ["inspect", "stability", "--model", FAMILY],
    ["eval", "tokenizer", "--tokenizer", FAMILY + "/image_tokenizer", "--data", PICTURES, "--split", ""],
)
VALUES = (
    "", "0", "-1", "1.5", "1e3", str(10**12), "9" * 40, "9" * 400, "nan", "inf", "-inf", "1e-320", "1e400", "0x10", "1_000", "\u0663", " 5",
    "true", "None", "[]", "{}", "a" * 5000, "\udcff", "😀", "-", "--", "/dev/null", "/dev/full", "/proc/self/mem", "a\nb", "%s%n", "a=b", "a,b", "1,2,3,4",
)  # fmt: skip


@kind
def options(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """An option of any verb with a value that nobody means."""
    words = list(chance.choice(COMMANDS))
    option = chance.choice(options_of(words))
    for copied_name in ("family", "editor", "pictures", "run"):
        source = getattr(bases, copied_name)
        shutil.copytree(source, folder / copied_name)
    shutil.copy(bases.recipe, folder / "recipe.yaml")
    given = [word.replace("@", f"{folder}/", 1) if word.startswith("@") else word for word in words]
    return command([*given, option, chance.choice(VALUES)])


def options_of(words: list[str]) -> list[str]:
    """The options of a command that take a value, but for the one whose value is a program to run."""
    import typer

    from cogview.cli.app import app

    found: Any = typer.main.get_command(app)
    for word in words:
        if not hasattr(found, "get_command"):
            break
        found = found.get_command(typer.Context(found), word)
    named = [one.opts[0] for one in found.params if one.opts[0].startswith("-") and not one.is_flag]
    return [name for name in named if name != "--translate"]


@kind
def adapters(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """A LoRA adapter."""
    import torch
    from safetensors.torch import save_file

    adapter = folder / "adapter"
    adapter.mkdir()
    told = {
        "rank": 2,
        "alpha": 4.0,
        "dropout": 0.0,
        "targets": ["attention.qkv"],
        "format": 1,
        "base": "0" * 16,
    }
    write(adapter / "lora.json", mutate.as_json(mutate.mutated(told, chance), chance))
    tensors = {f"blocks.{i}.attention.qkv.lora_{x}.weight": torch.zeros(2, 32) for i in (0, 1) for x in "AB"}
    save_file(tensors, adapter / "lora.safetensors")
    if chance.random() < 0.5:
        path = adapter / "lora.safetensors"
        path.write_bytes(mutate.in_head(path.read_bytes(), chance))
    return command(["generate", "a", "--model", str(bases.family), "--lora", str(adapter), "-o", "out"])


@kind
def places(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """Something else where a file is expected: a pipe, a device, a folder, a loop, nothing."""
    family = copied(chance, bases, folder)
    target = chance.choice(sorted(path for path in family.rglob("*") if path.is_file()))
    if chance.random() < 0.6:
        put_strange(target, chance)
        return model_verb(chance, bases, family)
    name = chance.choice(
        [
            "t.csv",
            "t.json",
            "t.jsonl",
            "a.zip",
            "a.tar",
            "a.tar.gz",
            "x.parquet",
            "p.png",
            "r.yaml",
            "w.pt",
            "l.lmdb",
        ]
    )
    strange = folder / name
    strange.write_bytes(b"")
    put_strange(strange, chance)
    given = str(strange)
    return command(
        chance.choice(
            [
                ["data", "check", given, "--workers", "0"], ["caption", given, "--model", str(bases.family)],
                ["upscale", given, "--model", str(bases.family), "-o", "out"], ["train", given], ["plan", given],
                ["import", "lpips", given, "out.safetensors", "--network", "vgg16"], ["report", given],
                ["data", "convert", given, "out", "--tokenizers", str(bases.family)],
                ["import", "inception", given, "out.safetensors"], ["generate", "--prompts", given, "-o", "out"],
                ["generate", "a man", "--fairness", given, "--model", str(bases.family), "-o", "out"],
                ["study", "create", "st", "--captions", given, "--model", f"a={bases.pictures}", "--model", f"b={bases.pictures}"],
                ["edit", given, "a", "--box", "0,0,9,9", "--model", str(bases.editor), "-o", "out"],
                ["score", given, "--texts", given, "--model", str(bases.family)], ["watch", given, "--once"],
                ["serve", str(bases.family), "--port", "0", "--check", "--api-key-file", given],
            ]
        )
    )  # fmt: skip


def put_strange(path: Path, chance: random.Random) -> None:
    path.unlink()
    way = chance.randrange(8)
    if way == 0:
        os.mkfifo(path)
    elif way == 1:
        path.symlink_to("/dev/zero")
    elif way == 2:
        path.mkdir()
    elif way == 3:
        path.symlink_to(path.name)
    elif way == 4:
        path.symlink_to("/proc/self/mem")
    elif way == 5:
        path.symlink_to("/dev/urandom")
    elif way == 6:
        with path.open("wb") as file:
            file.truncate(chance.choice([1 << 20, 1 << 31, 1 << 40]))


# ---------------------------------------------------------------------------------------------- pictures


FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "ICO")


def some_picture(chance: random.Random) -> bytes:
    """A picture of any format and mode."""
    size = chance.choice([(24, 20), (1, 1), (72, 72), (1, 3000), (3000, 1), (300, 200), (17, 5)])
    image = made.picture(chance.randrange(99), size)
    name = chance.choice(FORMATS)
    mode = chance.choice(["RGB", "RGB", "L", "P", "RGBA", "1", "I", "F", "CMYK", "LA", "I;16"])
    buffer = io.BytesIO()
    try:
        image.convert("L").convert(mode).save(buffer, name) if mode in ("I", "F", "I;16") else image.convert(
            mode
        ).save(buffer, name)
    except (OSError, ValueError, KeyError):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_bomb(chance: random.Random) -> bytes:
    """A PNG that says it is huge."""
    width, height = chance.choice(
        [(65535, 65535), (2**31 - 1, 1), (8000, 8000), (1, 60_000_000), (0, 5), (20000, 3000)]
    )
    depth, colour = chance.choice([(8, 2), (16, 6), (1, 0), (8, 3), (16, 0), (3, 9)])
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, chance.choice([0, 1]))
    rows = zlib.compress(bytes(chance.choice([10, 10**6])), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def eps(chance: random.Random) -> bytes:
    """PostScript, which Ghostscript would run."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch EXECUTED) (w) file\nshowpage\n"


def bad_picture(chance: random.Random) -> bytes:
    way = chance.random()
    if way < 0.6:
        return mutate.in_head(some_picture(chance), chance, chance.choice([32, 128, 1024]))
    if way < 0.75:
        return png_bomb(chance)
    if way < 0.85:
        return some_picture(chance)
    if way < 0.9:
        return eps(chance)
    return chance.choice(
        [b"", b"\x00" * 100, chance.randbytes(400), b"<svg onload='x'/>", b"GIF89a", b"\xff\xd8\xff"]
    )


@kind
def pictures(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """A damaged or dangerous picture."""
    suffix = chance.choice([".png", ".jpg", ".gif", ".webp", ".tif", ".bmp", ".avif", ".jp2", ".ppm", ".ico"])
    path = str(write(folder / f"p{suffix}", bad_picture(chance)))
    (folder / "p.txt").write_text("a red circle")
    tiny, tiny2 = str(bases.family), str(bases.editor)
    return command(
        chance.choice(
            [
                ["caption", path, "--model", tiny], ["score", path, "--text", "a", "--model", tiny],
                ["upscale", path, "--model", tiny, "-o", "out"], ["upscale", path, "--prompt", "a", "--model", tiny2, "-o", "out"],
                ["edit", path, "a red circle", "--box", "10%,10%,60%,60%", "--model", tiny2, "-o", "out"],
                ["edit", str(bases.pictures / "0.png"), "a", "--mask", path, "--model", tiny2, "-o", "out"],
                ["data", "check", str(folder), "--workers", "0"], ["report", path], ["rerank", "a", path, "--model", tiny],
                ["data", "cache", str(folder), "out", "--size", "16", "--workers", "0"],
                ["data", "build", str(folder), "out", "--tokenizers", tiny, "--workers", "0"],
            ]
        )
    )  # fmt: skip


@kind
def png_entries(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """What a PNG says of its making."""
    info = PngImagePlugin.PngInfo()
    told = mutate.mutated(json.loads(made.facts()), chance)
    text = mutate.as_json(told, chance).decode("utf-8", "replace")
    info.add_itxt("cogview", text, zip=chance.random() < 0.5)
    if chance.random() < 0.2:
        info.add_text("cogview", "x" * chance.choice([10, 10**6]), zip=True)
    buffer = io.BytesIO()
    made.picture(1).save(buffer, "PNG", pnginfo=info)
    data = buffer.getvalue()
    if chance.random() < 0.15:
        data = mutate.broken(data, chance)
    path = str(write(folder / "p.png", data))
    return command(
        chance.choice(
            [
                ["upscale", path, "--model", str(bases.family), "-o", "out"],
                ["upscale", path, "--model", str(bases.editor), "-o", "out"],
                ["caption", path, "--model", str(bases.family)], ["report", path],
                ["study", "create", "st", "--captions", str(write(folder / "c.txt", b"a red circle\n")),
                 "--model", f"a={folder}", "--model", f"b={folder}"],
            ]
        )
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- archives


def tar_of(entries: list[tuple[str, bytes]], chance: random.Random) -> bytes:
    buffer = io.BytesIO()
    kinds = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
    with tarfile.open(
        fileobj=buffer, mode="w", format=chance.choice(kinds), encoding="utf-8", errors="surrogateescape"
    ) as file:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if chance.random() < 0.15:
                info.pax_headers = {
                    chance.choice(
                        ["size", "path", "GNU.sparse.major", "GNU.sparse.size", "mtime", "linkpath"]
                    ): chance.choice(["-5", "9" * 30, "x", "1", "0", "1e9"])
                }
            if chance.random() < 0.08:
                info.type = chance.choice(
                    [
                        tarfile.SYMTYPE,
                        tarfile.LNKTYPE,
                        tarfile.FIFOTYPE,
                        tarfile.CHRTYPE,
                        b"S",
                        b"L",
                        b"x",
                        b"g",
                    ]
                )
                info.linkname = "/etc/passwd"
            try:
                file.addfile(info, io.BytesIO(data))
            except (ValueError, UnicodeError, OSError):
                continue
    return buffer.getvalue()


def zip_of(entries: list[tuple[str, bytes]], chance: random.Random) -> bytes:
    buffer = io.BytesIO()
    method = chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in entries:
            try:
                file.writestr(name.encode("utf-8", "replace").decode(), data)
            except (ValueError, OSError):
                continue
    return buffer.getvalue()


NAMES = (
    "a.png", "a.txt", "b.png", "b.json", "c.jpg", "../../x.png", "/etc/x.png", "d/" * 40 + "e.png", "a.en.txt", "f.png/g.png",
    "metadata.csv", "metadata.jsonl", "0001.jpg", "0001.txt", "0001.mask.png", "\udcc4\udce3.png", "\udcff\udcfe.txt", "C:\\x.png",
    "a\nb.png", "__MACOSX/._a.png", ".hidden.png", "x" * 200 + ".png", "a.PNG", "..png", "con.txt", "a b.png", "é.png", "中文.png",
    "-rf.png", "$(touch EXECUTED).png", "`touch EXECUTED`.txt", "a.json", "data.json",
)  # fmt: skip


def entries(chance: random.Random) -> list[tuple[str, bytes]]:
    """Members of an archive."""
    found = []
    for _ in range(chance.choice([1, 3, 8])):
        name = chance.choice(NAMES)
        if name.endswith((".png", ".jpg", ".PNG")):
            data = some_picture(chance) if chance.random() < 0.5 else bad_picture(chance)
        elif name.endswith((".csv", ".jsonl", ".json")):
            data = bad_table(chance, Path(name).suffix)
        else:
            data = chance.choice([b"a cat", b"\xff\xfe", b"", "红色".encode("gbk"), b"x" * 5000, b"a\x00b"])
        found.append((name, data))
    return found


@kind
def archives(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """Zips and tars of any compression, damaged or well made of strange members."""
    suffix = chance.choice([".zip", ".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
    data = zip_of(entries(chance), chance) if suffix == ".zip" else tar_of(entries(chance), chance)
    if chance.random() < 0.3:
        data = mutate.broken(data, chance)
    pack: dict[str, Callable[[bytes], bytes]] = {
        ".tar.gz": gzip.compress, ".tgz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress
    }  # fmt: skip
    data = pack.get(suffix, bytes)(data)
    if chance.random() < 0.4:
        data = mutate.broken(data, chance)
    path = write(folder / f"a{suffix}", data)
    given = str(folder if chance.random() < 0.1 else path)
    return data_verb(chance, bases, given)


def data_verb(chance: random.Random, bases: Bases, given: str) -> Work:
    """Something that reads a data set."""
    family = str(bases.family)
    workers = [] if chance.random() < 0.01 else ["--workers", "0"]
    return command(
        chance.choice(
            [
                ["data", "check", given, *workers], ["data", "check", given, *workers, "--json"],
                ["data", "check", given, *workers, "--report", "r.json"],
                ["data", "build", given, "out", "--tokenizers", family, *workers],
                ["data", "cache", given, "out", "--size", "16", *workers],
                ["data", "text-tokenizer", given, "out.model", "--pieces", "300"],
            ]
        )
    )  # fmt: skip


def gz(*parts: bytes) -> bytes:
    """A gzip stream of parts that are compressed each by itself; repeated ones cost nothing to make."""
    known: dict[int, bytes] = {}
    return b"".join(known.setdefault(id(part), gzip.compress(part, 9)) for part in parts)


@kind
def bombs(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """Archives that unpack to gigabytes."""
    zeros, way = bytes(16 << 20), chance.randrange(7)
    if way == 0:  # members that are no pictures
        head = tarfile.TarInfo(f"{chance.choice(['a.bin', 'a.json', 'b.txt', 'c.csv', 'd.png'])}")
        head.size = 256 << 20
        data, name = gz(*([head.tobuf(), *[zeros] * 16] * chance.choice([1, 4, 24]))), "a.tar.gz"
    elif way == 1:  # headers that say how long further headers are
        head = tarfile.TarInfo("././@LongLink")
        head.type, head.size = (
            chance.choice([tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE, b"S"]),
            1 << 32,
        )
        data, name = gz(head.tobuf(tarfile.GNU_FORMAT), *[zeros] * 256), "a.tar.gz"
    elif way == 2:  # headers inside headers
        inner = tarfile.TarInfo("x")
        inner.type, inner.size = chance.choice([tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE]), 10
        data, name = gzip.compress((inner.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 20000), "a.tar.gz"
    elif way == 3:  # very many empty files
        block = b"".join(tarfile.TarInfo(f"{i}.png").tobuf() for i in range(2000))
        data, name = gz(*[block] * chance.choice([50, 600])), "a.tar.gz"
    elif way == 4:
        buffer = io.BytesIO()
        with zipfile.ZipFile(
            buffer, "w", chance.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
        ) as file:
            for number in range(3):
                file.writestr(f"{number}.png", zeros * 6)
        data, name = buffer.getvalue(), "a.zip"
    elif way == 5:  # many entries of one content
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("a.png", b"x")
            for number in range(chance.choice([1000, 60000])):
                own = zipfile.ZipInfo(f"{number}.png")
                own.file_size = own.compress_size = 200 << 20
                own.compress_type, own.header_offset, own.CRC = zipfile.ZIP_DEFLATED, 0, 1
                file.filelist.append(own)
        data, name = buffer.getvalue(), "a.zip"
    else:
        part = lzma.compress(zeros, preset=0)
        data, name = lzma.compress(tarfile.TarInfo("a.json").tobuf()) + part * 20, "a.tar.xz"
    return data_verb(chance, bases, str(write(folder / name, data)))


# ------------------------------------------------------------------------------------------------ tables


def bad_table(chance: random.Random, suffix: str) -> bytes:
    """A table of captions, its cells hostile."""
    rows = [{"image": f"{i}.png", "caption": text, "id": i} for i, text in enumerate(made.CAPTIONS)]
    rows = mutate.mutated(rows, chance)
    shape = chance.randrange(6)
    if suffix in (".csv", ".tsv"):
        mark = "\t" if suffix == ".tsv" else ","
        cells = [[str(mutate.hostile(chance))[:5000] for _ in range(chance.randrange(5))] for _ in range(4)]
        lines = [
            mark.join(["image", "caption", "id"][: chance.randint(1, 3)]),
            *(mark.join(row) for row in cells),
        ]
        lines += [f"0.png{mark}a cat{mark}1", '"' * chance.choice([0, 1, 100000]), "\x00"]
        return (
            mutate.broken("\n".join(lines).encode("utf-8", "surrogatepass"), chance)
            if chance.random() < 0.5
            else "\r".join(lines).encode("utf-8", "replace")
        )
    if suffix in (".jsonl", ".ndjson"):
        lines = rows if isinstance(rows, list) else [rows]
        return b"\n".join(mutate.as_json(row, chance) for row in lines)
    shapes: list[Any] = [
        rows, {"RECORDS": rows}, {f"{i}.png": made.CAPTIONS[i % 4] for i in range(4)},
        {"images": [{"id": i, "file_name": f"{i}.png"} for i in range(4)],
         "annotations": [{"image_id": i, "caption": "a", "id": i} for i in range(4)]},
        {"annotations": rows}, {"a": rows, "b": rows},
    ]  # fmt: skip
    return mutate.as_json(mutate.mutated(shapes[shape], chance), chance)


@kind
def tables(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """CSV, TSV, JSON and JSONL beside pictures."""
    suffix = chance.choice([".csv", ".tsv", ".json", ".jsonl", ".ndjson"])
    for path in bases.pictures.glob("*.png"):
        os.link(path, folder / path.name)
    path = write(folder / f"t{suffix}", bad_table(chance, suffix))
    if chance.random() < 0.2:
        study = ["study", "create", "st", "--captions", str(path), "--size", "16"]
        return command([*study, "--model", f"a={folder}", "--model", f"b={bases.pictures}"])
    if suffix == ".json" and chance.random() < 0.2:
        from cogview.evaluation.experiments.coco import read_captions

        return lambda: refusing(lambda: read_captions(path, folder))
    return data_verb(chance, bases, str(path))


def refusing(work: Callable[[], Any]) -> int:
    """A call of the library; its own error is a refusal."""
    import sys

    from cogview.errors import CogViewError

    try:
        work()
    except CogViewError as error:
        assert "\n" not in str(error), error
        print(f"error: {error!s:.3000}".encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
        return 2
    return 0


@kind
def arrow(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """Parquet and saved data sets."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    texts = ["a", "b", None, "\x00"] * chance.choice([1, 40])
    image = [{"bytes": some_picture(chance), "path": chance.choice([None, "x.png", "\n", "../x"])}] * len(
        texts
    )
    columns: dict[str, Any] = {"image": image, "caption": texts}
    if chance.random() < 0.4:
        stamps = [0, 2**62, -(2**62), 5] * (len(texts) // 4)
        columns["id"] = pa.array(stamps, pa.timestamp(chance.choice(["ms", "us", "ns"])))
    if chance.random() < 0.3:
        raw = pa.array([b"\xff\xfe", b"a", b"b", b"c"] * (len(texts) // 4), pa.binary()).view(pa.string())
        columns["caption"] = raw
    if chance.random() < 0.2:
        columns["caption"] = pa.array([[["a"], []], [], None, [["b"]]] * (len(texts) // 4))
    if chance.random() < 0.2:
        columns["split"] = pa.array([2**63, 1, 2, 3] * (len(texts) // 4), pa.uint64())
    table = pa.table(columns)
    if chance.random() < 0.6:
        path = folder / "x.parquet"
        parquet.write_table(table, path, compression=chance.choice(["snappy", "none", "gzip", "zstd"]))
        given = path
    else:
        given = folder / "saved"
        given.mkdir()
        path = given / "data-00000-of-00001.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
            out.write_table(table)
        state = {"_data_files": [{"filename": path.name}], "_split": None}
        state = mutate.mutated(state, chance) if chance.random() < 0.5 else state
        write(given / "state.json", mutate.as_json(state, chance))
        info = {"features": {"caption": {"_type": "ClassLabel", "names": ["a", "b"]}}}
        write(given / "dataset_info.json", mutate.as_json(mutate.mutated(info, chance), chance))
    if chance.random() < 0.7:
        data = path.read_bytes()
        tail = chance.choice([0, len(data) - 600]) if len(data) > 600 else 0
        path.write_bytes(data[:tail] + mutate.in_head(data[tail:], chance))
    return data_verb(chance, bases, str(given))


@kind
def names(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """Folders of files whose names are not UTF-8, or strange."""
    inside = os.fsencode(folder) + b"/" + chance.choice([b"set", "图片".encode("gbk"), b"\xe9t\xe9"])
    os.mkdir(inside)
    for number, path in enumerate(sorted(bases.pictures.iterdir())):
        stem = chance.choice(
            [
                b"\xc4\xe3",
                b"\xff\xfe",
                "é".encode("latin-1"),
                b"a\nb",
                b"a\tb",
                b"-x",
                b"\xf0\x9f",
                b"a" * 240,
                b"%s",
            ]
        )
        shutil.copy(path, inside + b"/" + stem + str(number // 2).encode() + os.fsencode(path.suffix))
    given = os.fsdecode(inside)
    if chance.random() < 0.3:
        return command(["report", given, "-o", "r.html"])
    if chance.random() < 0.2:
        return command(
            [
                "caption",
                *(os.path.join(given, n) for n in os.listdir(given) if n.endswith("png")),
                "--model",
                str(bases.family),
            ]
        )
    return data_verb(chance, bases, given)


# ------------------------------------------------------------------------------------------- recipes, runs


YAMLS = (
    "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c]\ne: [*d, *d, *d, *d, *d, *d]\n",
    "task: !!python/object/apply:os.system ['touch EXECUTED']\n", "!!python/object/new:os.system ['touch EXECUTED']\n",
    "task: !!python/name:os.system\n", "task: !!bool x\n", "task: !!timestamp x\n", "task: !!float x\n", "task: !!int x\n",
    "task: !!set {a, b}\n", "task: !!omap [a: 1]\n", "task: !!binary 8J+YgA==\n", "task: {}\n", "task: []\n", "task:\n", "? [a, b]\n: c\n",
    "{a: 1}: 2\n", "<<: {a: 1}\n", "<<: *x\n", "- a\n", "a", "", "\t", "---\na: 1\n---\nb: 2\n", "%YAML 9.9\n---\na: 1\n", "steps: 1:1:1:1:1\n",
    "a: " + "1:" * 9000 + "1\n", "a: " + "9" * 5000 + "\n", "a: 0x" + "f" * 5000 + "\n", "a: 1_000_000_000_000_000_000_000\n", "[" * 5000,
    "a: " + "{a: " * 2000, "- " * 5000, "a:\n" * 3, "a: |\n" + " x\n" * 20000, "a: 'x\n", "a: \"\\ud800\"\n", "a: \"\\x00\"\n", "\x00", "\ufeffa: 1\n", "a: @b\n",
    "a: 2024-13-45\n", "a: 1e999999\n", "a: .nan\n", "a: ~\n", "null: 1\n", "true: 1\n", "1: 2\n", "&a a: *a\n", "&a [*a]\n", "a: !<tag:x> b\n",
)  # fmt: skip


@kind
def recipes(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """YAML: recipes, tables of words, families."""
    path = folder / "r.yaml"
    base = yaml.safe_load(bases.recipe.read_text("utf-8"))
    way = chance.random()
    if way < 0.6:
        value = mutate.mutated(base, chance)
        text = mutate.as_json(value, chance)
    elif way < 0.8:
        text = bases.recipe.read_bytes() + chance.choice(YAMLS).encode("utf-8", "surrogatepass")
    elif way < 0.9:
        text = chance.choice(YAMLS).encode("utf-8", "surrogatepass")
    elif way < 0.95:
        text = b"".join(b"k%d: %d\n" % (i, i) for i in range(chance.choice([100, 30000, 60000])))
    else:
        text = mutate.broken(bases.recipe.read_bytes(), chance)
    write(path, text)
    verbs = [
        ["train", str(path), "--out", "run", "--set", "steps=1"], ["plan", str(path)],
        ["train", str(path), "--out", "run", "--set", "steps=2", "--set", f"x={chance.choice(YAMLS)[:200]}"],
        ["generate", "a man", "--fairness", str(path), "--model", str(bases.family), "-o", "out"],
        ["assemble", "out", "--from", str(path)],
    ]  # fmt: skip
    return command(chance.choices(verbs, [5, 2, 1, 1, 1])[0])


@kind
def runs(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """A run's files: metrics, checkpoints, recipe."""
    run = folder / "run"
    shutil.copytree(bases.run, run)
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    path = chance.choice([run / "metrics.jsonl", *files])
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl") and chance.random() < 0.6:
        lines = data.splitlines() if path.suffix == ".jsonl" else [data]
        lines = [
            mutate.as_json(mutate.mutated(json.loads(line), chance), chance) for line in lines if line.strip()
        ]
        path.write_bytes(b"\n".join(lines))
    else:
        path.write_bytes(mutate.broken(data, chance))
    given = str(run)
    return command(
        chance.choice(
            [["watch", given, "--once"], ["watch", given, "--json"], ["report", given], ["train", "--resume", "--out", given, "--set", "steps=3"],
             ["train", str(bases.recipe), "--out", given, "--auto-resume", "--set", "steps=3"]]
        )
    )  # fmt: skip


@kind
def reports(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """Reports in JSON, some of a known kind."""
    known = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.json"))
    path = chance.choice(known)
    value = mutate.mutated(json.loads(path.read_text("utf-8")), chance)
    return command(["report", str(write(folder / path.name, mutate.as_json(value, chance)))])


@kind
def shards(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """Token shards and picture caches, also such whose index fits its files."""
    place = folder / "shards"
    cached = chance.random() < 0.25
    shutil.copytree(bases.cache if cached else bases.shards, place)
    index = place / ("images.json" if cached else "index.json")
    if chance.random() < 0.6:
        value = json.loads(index.read_text("utf-8"))
        index.write_bytes(mutate.as_json(mutate.mutated(value, chance), chance))
    else:
        path = chance.choice(sorted(place.rglob("*.bin")))
        path.write_bytes(mutate.broken(path.read_bytes(), chance))
        if not cached and chance.random() < 0.8:
            settle(place)
    return lambda: refusing(lambda: use_cache(place) if cached else use_shards(place))


def settle(place: Path) -> None:
    """Let an index say what its files are."""
    import hashlib

    value = json.loads((place / "index.json").read_text("utf-8"))
    for entry in value["shards"]:
        for name, file in entry["files"].items():
            data = (place / entry["name"] / f"{name}.bin").read_bytes()
            file["bytes"], file["sha256"] = len(data), hashlib.sha256(data).hexdigest()
    (place / "index.json").write_text(json.dumps(value))


def use_shards(place: Path) -> None:
    from cogview.data.loader import TokenLoader
    from cogview.data.shards import TokenShards

    found = TokenShards(place, hashes=True)
    for number in range(min(len(found), 200)):
        _ = found[number]
    for _ in zip(TokenLoader(found, 2, splits=None, epochs=1), range(50), strict=False):
        pass


def use_cache(place: Path) -> None:
    from cogview.data.image_cache import ImageCache
    from cogview.data.loader import ImageLoader

    found = ImageCache(place)
    for _ in zip(ImageLoader(found, 2, splits=None, epochs=1), range(50), strict=False):
        pass


# ------------------------------------------------------------------------------------- pickles, LMDB, .pt


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, way: int) -> None:
        self.way = way

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            (os.system, (PAYLOAD,)), (eval, ("__import__('os').system('touch EXECUTED')",)),
            (exec, ("open('EXECUTED','w')",)), (open, (sandbox.CANARY, "w")), (os.popen, (PAYLOAD,)),
        )[self.way % 5]  # fmt: skip


def bad_pickle(chance: random.Random) -> bytes:
    """A pickle that runs something, takes much, or is damaged."""
    way, protocol = chance.randrange(12), chance.choice([0, 2, 3, 4, 5])
    array = np.arange(chance.choice([4, 64, 1024]), dtype=np.int64)
    good = pickle.dumps(
        chance.choice([array, (array, array), ("text", array), list(range(64)), [[1, 2], [3, 4]]]), protocol
    )
    if way == 0:
        return pickle.dumps(Trap(chance.randrange(5)), protocol)
    if way == 1:
        return pickle.dumps((array, Trap(chance.randrange(5))), protocol)
    if way == 2:
        return b"\x80\x02Nr" + struct.pack("<I", chance.choice([2**31 - 1, 2**32 - 1, 10**9])) + b"."
    if way == 3:
        return b"\x80\x02" + b"(" * chance.choice([1000, 3 * 10**6]) + b"t."
    if way == 4:
        shape = chance.choice([b"K\x05", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x7f"])
        return (
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + shape + b"\x85U\x01b\x87R."
        )
    if way == 5:
        return (
            b"\x80\x02cbuiltins\n"
            + chance.choice([b"bytearray", b"eval", b"range", b"list"])
            + b"\nJ\xff\xff\xff\x7f\x85R."
        )
    if way == 6:
        return (
            b"\x80\x02]q\x00" + b"(" + b"h\x00" * 10 + b"e" + b"."
            if chance.random() < 0.5
            else nested(chance)
        )
    if way == 7:
        return (
            b"\x80\x05"
            + chance.choice([b"\x8e", b"\x8d", b"\x96", b"\x95"])
            + struct.pack("<Q", 2 ** chance.choice([32, 40, 62]))
            + b"x."
        )
    if way == 8:
        return (
            b"I" + b"9" * 10000 + b"\n."
            if chance.random() < 0.5
            else b"\x8b" + struct.pack("<i", 5000) + b"\xff" * 5000 + b"."
        )
    return mutate.broken(good, chance)


def nested(chance: random.Random) -> bytes:
    """Lists that hold the list before them many times."""
    data = b"\x80\x02]q\x00K\x01a"
    for level in range(1, chance.choice([8, 30])):
        data += b"]q" + bytes([level]) + b"(" + (b"h" + bytes([level - 1])) * 10 + b"e"
    return data + b"."


@kind
def pickles(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """Weight files that are pickles."""
    way = chance.random()
    if way < 0.35:
        data = (
            bad_pickle(chance)
            if chance.random() < 0.6
            else mutate.in_head(made.lpips(chance.randrange(99)), chance)
        )
        path = write(folder / "a.ckpt", data)
        return command(
            [
                "import",
                "lpips",
                str(path),
                "out.safetensors",
                "--network",
                chance.choice(["alexnet", "vgg16"]),
            ]
        )
    data = bad_checkpoint(chance, bases)
    path = write(folder / "w.pt", data)
    if chance.random() < 0.3:
        return command(["import", "inception", str(path), "out.safetensors"])
    from cogview.importers import checkpoint

    def work() -> None:
        weights = checkpoint.load_weights(path)
        checkpoint.check_sums(path)
        assert all(x.numel() >= 0 for x in weights.values())

    return lambda: refusing(work)


def bad_checkpoint(chance: random.Random, bases: Bases) -> bytes:
    """A PyTorch file, its pickle exchanged or damaged."""
    import torch

    way = chance.random()
    if way < 0.3:
        return mutate.in_head(bases.checkpoint.read_bytes(), chance, 2048)
    if way < 0.4:
        return bad_pickle(chance)
    buffer = io.BytesIO()
    if way < 0.55:
        big = {
            "module": {
                f"w{i}": torch.zeros(1).expand(chance.choice([10, 10**9]))
                for i in range(chance.choice([1, 40]))
            }
        }
        torch.save(big, buffer)
    elif way < 0.65:
        base = torch.zeros(1 << 20)
        torch.save({"module": {f"w{i}": base for i in range(chance.choice([2, 4000]))}}, buffer)
    elif way < 0.75:
        torch.save({"module": Trap(chance.randrange(5))}, buffer)
    else:
        torch.save(
            {"module": {"a": torch.zeros(4, 4), "b": [1, "x"], "c": torch.zeros(2, dtype=torch.int8)}}, buffer
        )
    data = buffer.getvalue()
    if chance.random() < 0.5 or way >= 0.75:
        data = exchanged(data, chance)
    return data


def exchanged(data: bytes, chance: random.Random) -> bytes:
    """A PyTorch zip with another pickle inside."""
    out = io.BytesIO()
    method = chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", method) as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                content = bad_pickle(chance) if chance.random() < 0.5 else mutate.broken(content, chance)
            new.writestr(entry.filename, content)
    return out.getvalue()


@kind
def lmdbs(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """The original's LMDB: damaged, truncated, with hostile values."""
    path = folder / "x.lmdb"
    if chance.random() < 0.5:
        import lmdb

        with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as put:
            put.put(b"length", chance.choice([b"2", b"9" * 30, b"-1", b"x", b"\xb2", b"0", b"2000000"]))
            for number in range(2):
                put.put(str(number).encode(), bad_pickle(chance)[: 1 << 20])
    else:
        shutil.copytree(bases.lmdb, path)
    data = path / "data.mdb"
    if chance.random() < 0.6:
        content = data.read_bytes()
        way = chance.randrange(3)
        if way == 0:
            content = content[: chance.randrange(len(content))]
        elif way == 1:
            content = content[:8192] + mutate.broken(content[8192:], chance)
        else:
            content = mutate.in_head(content, chance, 4096)
        data.write_bytes(content)
    if chance.random() < 0.1:
        path = write(folder / "flat.bin", mutate.broken(bytes(4352 * 2), chance))
    return command(["data", "convert", str(path), "out", "--tokenizers", str(bases.family)])


@kind
def texts(chance: random.Random, bases: Bases, folder: Path) -> Work:
    """Prompts, captions, text tokenizers, keys, translations."""
    odd = [
        "",
        "\x00",
        "\ud800",
        "\u202e",
        "a" * 100000,
        "红" * 50000,
        "\n" * 9,
        "<n>",
        "{caption}",
        "%s",
        "\x1b[2J",
        "\udcff",
        "🏳️‍🌈" * 50,
        "--help",
        "-",
    ]
    text = chance.choice(odd) + chance.choice(odd)
    path = write(folder / "t.txt", text.encode("utf-8", "surrogatepass"))
    family = ["--model", str(bases.family)]
    image = str(bases.pictures / "0.png")
    clean = text.replace("\x00", "")
    return command(
        chance.choice(
            [
                ["generate", *family, "-o", "out", "--", clean], ["generate", "--prompts", str(path), *family, "-o", "out"],
                ["score", image, "--text", clean or "a", *family], ["score", image, "--texts", str(path), *family],
                ["generate", "a", *family, "--style", clean, "-o", "out"], ["generate", "a", "--model", clean or "x", "-o", "out"],
                ["data", "check", str(bases.pictures), "--workers", "0", "--caption", clean or "a"],
                ["study", "create", "st", "--captions", str(path), "--title", clean, "--model", f"a={bases.pictures}", "--model", f"b={bases.pictures}"],
                ["edit", image, "--box", clean or "x", "--model", str(bases.editor), "-o", "out", "--", "a"],
                ["generate", "a", "--sparse", clean or "1", *family, "-o", "out"], ["generate", "a", "--max-batch", clean or "x", *family, "-o", "out"],
                ["serve", str(bases.family), "--port", "0", "--check", "--api-key-file", str(path)],
                ["rerank", "--lines", str(path), *family], ["data", "check", str(bases.pictures), "--column", clean or "x"],
            ]
        )
    )  # fmt: skip
