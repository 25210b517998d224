"""Zip, tar, WebDataset, JSON, saved data sets: the same records as a folder gives; nothing leaves them."""

from __future__ import annotations

import io
import json
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogview.data.check import check
from cogview.data.samples import Caption
from cogview.data.sources import (
    CaptionedSource,
    Columns,
    Source,
    TranslatedSource,
    command_translator,
    open_source,
)
from cogview.data.sources import archives as room
from cogview.errors import CogViewError

from .test_images import encoded, noise

PICTURES = [encoded(noise(4, 4, seed)) for seed in range(8)]
FILES = {
    "pets/b.png": PICTURES[0],
    "pets/b.txt": b"one caption\n\n  another   caption \n",
    "pets/b.zh.txt": "\ufeff一个\n".encode(),
    "pets/a.v2.png": PICTURES[1],
    "pets/a.v2.txt": b"a name with a dot",
    "c.webp": PICTURES[2],
    "pets/bad.png": PICTURES[3],
    "pets/bad.txt": b"\xff\xfe\x00bad",
    "license.txt": b"nothing",
    "__MACOSX/pets/._b.png": b"nothing",
    ".hidden.png": b"nothing",
}
TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
KINDS = [".zip", *TARS]


def pack(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    mode = next(mode for suffix, mode in TARS.items() if path.name.endswith(suffix))
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def unpack(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def facts(source: Source) -> dict[str, tuple[bytes, tuple[Caption, ...], bool]]:
    """Key to (picture, captions, problem) of every record."""
    found = {}
    for record in source.records():
        image = record.image.read_bytes() if isinstance(record.image, Path) else record.image
        assert image is not None
        found[record.key] = (image, record.captions, bool(record.problem))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_what_its_folder_is(kind: str, tmp_path: Path) -> None:
    folder = open_source(unpack(tmp_path / "folder", {k: v for k, v in FILES.items() if "MACOSX" not in k}))
    source = open_source(pack(tmp_path / f"x{kind}", FILES))
    assert facts(source) == facts(folder)
    records = list(source.records())
    assert len(source) == len(records) == 4
    for start in (3, 1, 0, 2, 4):  # back and forth
        assert list(source.records(start)) == records[start:]
    assert list(pickle.loads(pickle.dumps(source)).records()) == records
    report = check(source)
    assert report.good == 2 and report.rejected == {"unreadable record": 1, "missing caption": 1}


@pytest.mark.parametrize("table", ["metadata.csv", "metadata.jsonl", "captions.json", "data/metadata.tsv"])
@pytest.mark.parametrize("kind", [".zip", ".tar", ".tar.gz"])
def test_a_table_in_an_archive_names_its_pictures(kind: str, table: str, tmp_path: Path) -> None:
    rows = [("a.png", "one"), ("a.png", "two"), ("b.png", "three"), ("none.png", "four")]
    text = {
        "csv": "\n".join(["file_name,caption", *(f"{a},{b}" for a, b in rows)]),
        "tsv": "\n".join(["file_name\tcaption", *(f"{a}\t{b}" for a, b in rows)]),
        "jsonl": "\n".join(json.dumps({"file_name": a, "caption": b}) for a, b in rows),
        "json": json.dumps({"a.png": ["one", "two"], "b.png": "three", "none.png": "four"}),
    }[table.rpartition(".")[2]]
    base = table.rpartition("/")[0]
    files = {f"{base}/{n}".lstrip("/"): d for n, d in zip(("b.png", "a.png"), PICTURES, strict=False)}
    source = open_source(pack(tmp_path / f"x{kind}", {**files, table: text.encode()}))
    records = {record.key: record for record in source.records()}
    assert list(records) == ["a.png", "b.png", "none.png"]
    assert [c.text for c in records["a.png"].captions] == ["one", "two"]
    assert records["a.png"].image == PICTURES[1] and records["b.png"].image == PICTURES[0]
    report = check(source)
    assert report.good == 2 and report.rejected == {"missing file": 1}


def test_webdataset_shards(tmp_path: Path) -> None:
    """Keys up to the first dot, captions in txt or json, masks that belong to another picture left out."""
    for shard in range(3):
        files: dict[str, bytes] = {}
        for n in range(4):
            files[f"{n:04}.jpg"] = PICTURES[n]
            files[f"{n:04}.mask.png"] = PICTURES[7]
            files[f"{n:04}.cls"] = b"3"
            if n % 2:
                files[f"{n:04}.txt"] = f"picture {shard} {n}".encode()
            else:
                files[f"{n:04}.json"] = json.dumps({"caption": f"picture {shard} {n}", "width": 4}).encode()
        pack(tmp_path / f"shard-{shard}.tar", files)
    source = open_source(tmp_path, validation=0)
    records = list(source.records())
    assert [record.key for record in records][:5] == [
        *(f"shard-0/{n:04}.jpg" for n in range(4)),
        "shard-1/0000.jpg",
    ]
    texts = [f"picture {shard} {n}" for shard in range(3) for n in range(4)]
    assert [record.captions for record in records] == [(Caption(text),) for text in texts]
    for start in range(13):
        assert list(source.records(start)) == records[start:]
    before = source.fingerprint()
    pack(tmp_path / "shard-3.tar", {"1.jpg": PICTURES[0], "1.txt": b"one more"})
    assert len(open_source(tmp_path)) == 13 and open_source(tmp_path, validation=0).fingerprint() != before


@pytest.mark.parametrize("kind", [".zip", ".tar"])
@pytest.mark.parametrize(
    "name", ["../../evil.png", "/etc/evil.png", "a/../../evil.png", "C:/evil.png", "a\\..\\e.png"]
)
def test_names_that_lead_out_are_refused_and_nothing_is_written(kind: str, name: str, tmp_path: Path) -> None:
    inside = tmp_path / "in" / "side"
    inside.mkdir(parents=True)
    files = {name: PICTURES[0], "good.png": PICTURES[1], "good.txt": b"good"}
    source = open_source(pack(inside / f"x{kind}", files))
    problems = {record.key: record.problem for record in source.records()}
    assert "leads out" in problems[name] and not problems["good.png"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "side", f"x{kind}"]


def test_links_and_bombs_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_MEMBER", 1000)
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, size in (("big.png", 1001), ("big.txt", 3)):
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(b"x" * size))
    (record,) = open_source(path).records()
    assert record.key == "big.png" and "at most 1,000" in record.problem
    bomb = pack(tmp_path / "bomb.zip", {"a.png": b"\0" * 10**6, "a.txt": b"zeros"})
    (record,) = open_source(bomb).records()
    assert record.image is None and "at most 1,000" in record.problem


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_archives_are_one_line_or_bad_records(kind: str, tmp_path: Path) -> None:
    path = pack(tmp_path / f"x{kind}", {f"{n}.png": PICTURES[n] for n in range(8)} | {"0.txt": b"t"})
    whole = path.read_bytes()
    for cut in (0, 1, 100, len(whole) // 2, len(whole) - 1100):
        path.write_bytes(whole[:cut])
        try:
            report = check(open_source(path))
        except CogViewError as error:
            assert "\n" not in str(error) and str(path) in str(error)
        else:
            assert report.records == report.bad + report.good
    path.write_bytes(b"no archive at all, only text" * 50)
    with pytest.raises(CogViewError, match="not a readable"):
        open_source(path)


def test_damage_inside_a_zip_is_a_bad_record(tmp_path: Path) -> None:
    path = pack(
        tmp_path / "x.zip", {"a.png": PICTURES[0], "a.txt": b"t", "b.png": PICTURES[1], "b.txt": b"u"}
    )
    data = bytearray(path.read_bytes())
    at = data.index(b"a.png") + 20
    data[at : at + 8] = b"\xff" * 8
    path.write_bytes(data)
    records = list(open_source(path).records())
    assert "cannot be read" in records[0].problem and not records[1].problem


JSONS = {
    "list": [
        {"image": "a.png", "en": "one"},
        {"image": "a.png", "en": "two"},
        {"image": "b.png", "en": "three"},
    ],
    "records": {
        "RECORDS": [{"image": "a.png", "en": ["one", "two"]}, {"image": "b.png", "en": "three"}],
        "version": 3,
    },
    "objects": {"a.png": {"en": ["one", "two"]}, "b.png": {"en": "three"}},
    "coco": {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "annotations": [
            {"image_id": 7, "caption": "one", "id": 1},
            {"image_id": 9, "caption": "three", "id": 2},
            {"image_id": 7, "caption": "two", "id": 3},
        ],
        "info": {},
    },
}


@pytest.mark.parametrize("shape", JSONS)
def test_json_in_the_shapes_people_have(shape: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(JSONS[shape]))
    records = list(open_source(path).records())
    assert [[c.text for c in record.captions] for record in records] == [["one", "two"], ["three"]]
    assert [record.image for record in records] == [tmp_path / "a.png", tmp_path / "b.png"]


@pytest.mark.parametrize(
    "text", ["3", "{broken", "[[1]]", "{}", "[]", '"x"', "\ud800".encode("utf-8", "surrogatepass")]
)
def test_json_that_is_none_is_one_line(text: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        assert all(record.problem for record in open_source(path).records())
    except CogViewError as error:
        assert "\n" not in str(error)


def test_a_folder_with_one_table_of_captions(tmp_path: Path) -> None:
    """The layout of Hugging Face's imagefolder."""
    unpack(tmp_path, {"train/a.png": PICTURES[0], "train/b.png": PICTURES[1]})
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "train/a.png", "text": "one"}\n{"file_name": "train/b.png", "text": "two"}\n'
    )
    source = open_source(tmp_path)
    assert [record.captions for record in source.records()] == [(Caption("one"),), (Caption("two"),)]
    assert check(source).good == 2


# ---------------------------------------------------------------------------------------------- saved


def save_data_set(
    root: Path, rows: dict[str, list[object]], features: dict[str, object], parts: int = 2
) -> None:
    """As ``datasets.Dataset.save_to_disk`` lays it out."""
    arrow = pytest.importorskip("pyarrow")
    ipc = pytest.importorskip("pyarrow.ipc")
    root.mkdir(parents=True, exist_ok=True)
    table, names = arrow.table(rows), []
    size = -(-len(table) // parts)
    for part in range(parts):
        names.append({"filename": f"data-{part:05}-of-{parts:05}.arrow"})
        piece = table.slice(part * size, size)
        with (root / names[-1]["filename"]).open("wb") as file, ipc.new_stream(file, table.schema) as writer:
            writer.write_table(piece, max_chunksize=3)
    (root / "state.json").write_text(json.dumps({"_data_files": names, "_format_type": None}))
    (root / "dataset_info.json").write_text(json.dumps({"features": features}))


def test_saved_data_sets(tmp_path: Path) -> None:
    rows: dict[str, list[object]] = {
        "image": [{"bytes": PICTURES[n % 8], "path": f"{n}.png"} for n in range(17)],
        "caption": [[f"picture {n}", f"again {n}"] for n in range(17)],
    }
    save_data_set(tmp_path / "x", rows, {})
    source = open_source(tmp_path / "x", validation=0)
    records = list(source.records())
    assert [record.image for record in records] == [PICTURES[n % 8] for n in range(17)]
    assert records[5].captions == (Caption("picture 5"), Caption("again 5"))
    assert [record.key for record in records] == [f"{n}.png" for n in range(17)]
    for start in range(18):
        assert list(source.records(start)) == records[start:]


def test_saved_splits_and_class_labels(tmp_path: Path) -> None:
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "img": {"_type": "Image"}}
    for split, count in (("train", 5), ("validation", 2)):
        rows: dict[str, list[object]] = {
            "img": [{"bytes": PICTURES[n], "path": None} for n in range(count)],
            "label": [n % 2 for n in range(count)],
        }
        save_data_set(tmp_path / "x" / split, rows, features, parts=1)
    (tmp_path / "x" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    records = list(open_source(tmp_path / "x").records())
    assert [record.split for record in records] == ["train"] * 5 + ["val"] * 2
    assert [record.captions[0].text for record in records[:3]] == ["cat", "dog", "cat"]
    assert len({record.key for record in records}) == 7
    assert check(open_source(tmp_path / "x")).good == 7


def test_a_damaged_saved_data_set_is_one_line(tmp_path: Path) -> None:
    save_data_set(tmp_path / "x", {"image": [PICTURES[0]], "caption": ["one"]}, {}, parts=1)
    (file,) = (tmp_path / "x").glob("*.arrow")
    file.write_bytes(b"no arrow")
    with pytest.raises(CogViewError, match=r"not a readable .*Arrow file|cannot be read"):
        open_source(tmp_path / "x")
    (tmp_path / "x" / "state.json").write_text("{broken")
    with pytest.raises(CogViewError, match="not valid JSON"):
        open_source(tmp_path / "x")
    (tmp_path / "x" / "state.json").write_text('{"_data_files": [{"filename": "../../else.arrow"}]}')
    with pytest.raises(CogViewError, match=r"not a readable .*Arrow file|cannot be read"):
        open_source(tmp_path / "x")


# ---------------------------------------------------------------------------------------------- wrappers


def some(tmp_path: Path, count: int = 9) -> Source:
    path = tmp_path / "t.csv"
    rows = [f"{n}.png,caption {n % 4},{'已有' if n == 3 else ''}" for n in range(count)]
    path.write_text("\n".join(["image,en,zh", *rows]))
    return open_source(path)


def test_one_caption_for_all(tmp_path: Path) -> None:
    source = CaptionedSource(some(tmp_path), {"en": ["An image of ink style"], "zh": ["水墨风格"]})
    wanted = (Caption("An image of ink style", "en"), Caption("水墨风格", "zh"))
    assert {record.captions for record in source.records()} == {wanted}
    assert len(source) == 9 and len(list(source.records(4))) == 5
    assert source.fingerprint() != CaptionedSource(some(tmp_path), {"en": ["another"]}).fingerprint()


@given(start=st.integers(0, 9), size=st.integers(1, 5))
def test_translation_from_any_start(tmp_path_factory: pytest.TempPathFactory, start: int, size: int) -> None:
    asked: list[str] = []

    def translate(texts: list[str]) -> list[str]:
        asked.extend(texts)
        return [f"译 {text}" for text in texts]

    folder = tmp_path_factory.mktemp("x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cogview.data.sources.wrappers.BATCH", size)
        records = list(TranslatedSource(some(folder), translate).records(start))
    for number, record in enumerate(records, start):
        texts = [c.text for c in record.captions if c.language == "zh"]
        assert texts == (["已有"] if number == 3 else [f"译 caption {number % 4}"])
    assert len(asked) == len(set(asked))


def test_translations_are_kept_and_nothing_is_translated_twice(tmp_path: Path) -> None:
    asked: list[str] = []

    def translate(texts: Sequence[str]) -> list[str]:
        asked.extend(texts)
        return [f"译 {text}" for text in texts]

    def captions(name: str) -> list[set[str]]:
        source = TranslatedSource(some(tmp_path), translate, name=name, cache=tmp_path / "kept")
        return [{caption.text for caption in record.captions} for record in source.records()]

    whole = captions("one")
    first = list(asked)
    assert first and len(set(first)) == len(first)
    for file in (tmp_path / "kept").iterdir():  # a kill while a line was written
        file.write_text(file.read_text("utf-8") + '["cut", "sho', "utf-8")
    assert captions("one") == whole and asked == first
    captions("another translator")
    assert asked == first * 2


def test_a_command_translates_or_says_why_not(tmp_path: Path) -> None:
    program = tmp_path / "translate.py"
    program.write_text("import sys\nfor line in sys.stdin.buffer: sys.stdout.buffer.write(b'X ' + line)\n")
    translate = command_translator(f"{sys.executable} {program}")
    records = list(TranslatedSource(some(tmp_path), translate, "zh").records())
    assert [c.text for c in records[1].captions] == ["caption 1", "X caption 1"]
    for command, said in (
        ("no-such-program-here", "No such file"),
        (f"{sys.executable} -c 'import sys; sys.exit(\"gone wrong\")'", "gone wrong"),
        (f"{sys.executable} -c 'print(1)'", "not one for each"),
        ("", "give a command"),
    ):
        with pytest.raises(CogViewError, match=said):
            list(TranslatedSource(some(tmp_path), command_translator(command), "zh").records())


def test_columns_may_be_named_in_webdataset_json(tmp_path: Path) -> None:
    pack(
        tmp_path / "x.tar",
        {"1.png": PICTURES[0], "1.json": b'{"beschreibung": "eine Katze", "caption": "x"}'},
    )
    source = open_source(tmp_path / "x.tar", Columns(captions={"de": "beschreibung"}))
    assert next(source.records()).captions == (Caption("eine Katze", "de"),)
