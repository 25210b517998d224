"""Every kind of source yields the records that were written, in a fixed order, from any start."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cogview.data.samples import Caption
from cogview.data.sources import Columns, Source, open_source
from cogview.errors import CogViewError

from .test_images import encoded, noise

ROWS: list[dict[str, Any]] = [
    {"id": "a", "image": "a.png", "en": "a red cat", "zh": "红猫", "style_en": "flat", "split": "train"},
    {"id": "b", "image": "sub/b.png", "en": 'a dog, "big"', "zh": "", "style_en": "", "split": "val"},
    {"id": "c", "image": "c.png", "en": "  ", "zh": "一棵 树\n", "style_en": "3D", "split": "train"},
]
EXPECTED = [
    (Caption("a red cat", "en"), Caption("a red cat, flat style", "en", "styled"), Caption("红猫", "zh")),
    (Caption('a dog, "big"', "en"),),
    (Caption("一棵 树", "zh"),),
]


def write_rows(directory: Path, kind: str) -> Path:
    path = directory / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), "utf-8")
    elif kind == "parquet":
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(ROWS), path)
    else:
        with path.open("w", encoding="utf-8-sig" if kind == "csv" else "utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(ROWS)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_tables_give_their_rows(tmp_path: Path, kind: str) -> None:
    source = open_source(write_rows(tmp_path, kind))
    records = list(source.records())
    assert len(source) == 3
    assert [record.captions for record in records] == EXPECTED
    assert [record.key for record in records] == ["a", "b", "c"]
    assert [record.image for record in records] == [tmp_path / row["image"] for row in ROWS]
    assert [record.split for record in records] == ["train", "val", "train"]
    for start in range(4):
        assert list(source.records(start)) == records[start:]


def test_columns_can_be_named_and_pictures_be_elsewhere(tmp_path: Path) -> None:
    columns = Columns(image="image", captions={"de": "en"}, key="zh", templates={"": "{style}: {caption}"})
    source = open_source(write_rows(tmp_path, "csv"), columns, images=tmp_path / "pictures")
    record = next(source.records())
    assert record.captions == (Caption("a red cat", "de"),)
    assert (record.key, record.image) == ("红猫", tmp_path / "pictures" / "a.png")
    with pytest.raises(CogViewError, match="no column 'nope'; there are id, image"):
        open_source(tmp_path / "rows.csv", Columns(captions={"en": "nope"}))


def test_further_columns_make_further_captions(tmp_path: Path) -> None:
    """A styled caption of every plain one, keywords and other wordings, each by its own kind."""
    row = {"image": "a.png", "en": "red apple", "zh": "红苹果", "style_en": "flat", "en_kw": ["fruit", ""],
           "en_more": ["an apple", "a red apple"]}  # fmt: skip
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    (record,) = open_source(tmp_path / "t.jsonl").records()
    assert [(c.text, c.language, c.kind) for c in record.captions] == [
        ("red apple", "en", "plain"), ("red apple, flat style", "en", "styled"), ("红苹果", "zh", "plain"),
        ("fruit", "en", "keyword"), ("an apple", "en", "reworded"), ("a red apple", "en", "reworded"),
    ]  # fmt: skip


def test_a_table_without_captions_says_which_columns_it_has(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("file,number\na.png,3\n")
    with pytest.raises(CogViewError, match="no caption column among file, number"):
        open_source(path)
    path.write_text("number,caption\n3,text\n")
    with pytest.raises(CogViewError, match="no image column among number, caption"):
        open_source(path)


def test_bad_rows_are_records_with_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"image": "a.png", "caption": "one"}\n\n{broken\n[1]\n{"image": "b.png", "caption": "two"}\n'
    )
    problems = [record.problem for record in open_source(path).records()]
    assert [bool(problem) for problem in problems] == [False, True, True, False]
    table = tmp_path / "x.csv"
    table.write_text("image,caption\na.png,one\nb.png\nc.png,two,three\n")
    assert [bool(record.problem) for record in open_source(table).records()] == [False, True, True]


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_holds_picture_bytes(tmp_path: Path, struct: bool) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    data = [encoded(noise(4, 4, seed)) for seed in range(700)]
    images = [{"bytes": part, "path": f"{n}.png"} for n, part in enumerate(data)] if struct else data
    rows = {"image": images, "texts": [[f"picture {number}", "", "other"] for number in range(700)]}
    for part in range(2):
        half = {name: values[part * 350 : part * 350 + 350] for name, values in rows.items()}
        parquet.write_table(arrow.table(half), tmp_path / f"part-{part}.parquet", row_group_size=100)
    source = open_source(tmp_path)
    records = list(source.records())
    assert [record.image for record in records] == data
    assert records[3].captions == (Caption("picture 3"), Caption("other"))
    assert len({record.key for record in records}) == 700
    for start in (0, 99, 257, 349, 350, 699, 700):
        assert list(source.records(start)) == records[start:]


def make_folder(root: Path) -> Source:
    (root / "sub").mkdir(parents=True)
    for name in ("b.png", "a[1].JPG", "sub/c.webp"):
        noise(4, 4).save(root / name, "PNG")
    (root / "b.txt").write_text("one caption\n\n  another   caption \n", "utf-8")
    (root / "b.zh.txt").write_text("一个\n", "utf-8-sig")
    (root / "b.notes.txt").write_text("not a language", "utf-8")
    (root / "a[1].txt").write_bytes(b"\xff\xfe\x00bad")
    (root / "readme.md").write_text("nothing")
    (root / "d.docx").write_text("no picture, but captioned")
    (root / "d.txt").write_text("a letter")
    (root / ".hidden.png").write_text("nothing")
    (root / "license.txt").write_text("nothing")
    return open_source(root)


def test_a_folder_with_captions_beside(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "pets")
    records = {record.key: record for record in source.records()}
    assert list(records) == ["a[1].JPG", "b.png", "d.docx", "sub/c.webp"]
    assert records["b.png"].captions == (
        Caption("one caption"),
        Caption("another caption"),
        Caption("一个", "zh"),
    )
    assert "UTF-8" in records["a[1].JPG"].problem
    assert records["sub/c.webp"].captions == ()
    assert {record.source for record in records.values()} == {"pets"}
    assert [record.key for record in source.records(1)] == ["b.png", "d.docx", "sub/c.webp"]


def test_the_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    before = make_folder(tmp_path / "pets").fingerprint()
    assert open_source(tmp_path / "pets").fingerprint() == before
    Image.new("RGB", (9, 9)).save(tmp_path / "pets" / "b.png")
    assert open_source(tmp_path / "pets").fingerprint() != before


@pytest.mark.parametrize(
    ("name", "message"), [("none", "does not exist"), ("x.docx", "unknown kind"), ("", "no samples")]
)
def test_what_is_no_source_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "x.docx").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(CogViewError, match=message):
        open_source(tmp_path / (name or "empty"))


def test_a_damaged_parquet_file_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(CogViewError, match="not a readable Parquet"):
        open_source(tmp_path / "x.parquet")


def test_a_share_of_the_keys_is_kept_for_validation(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [f"{number}.png,{number}" for number in range(3000)]
    path.write_text("\n".join(["image,caption", *rows]))
    splits = {record.key: record.split for record in open_source(path, validation=0.1).records()}
    count = list(splits.values()).count("val")
    assert abs(count - 300) < 5 * (3000 * 0.1 * 0.9) ** 0.5
    path.write_text("\n".join(["image,caption", *rows[1000:]]))
    later = open_source(path, validation=0.1)
    assert all(splits[record.key] == record.split for record in later.records())
    assert later.fingerprint() != open_source(path, validation=0.2).fingerprint()
    assert {record.split for record in open_source(path, validation=0).records()} == {"train"}
