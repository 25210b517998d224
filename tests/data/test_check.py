"""Checking a data set: every kind of defect is counted, explained and never fatal."""

import json
from pathlib import Path

import pytest
from PIL import Image

from cogview.data.check import GLANCE, check
from cogview.data.decoders import Decoders
from cogview.data.images import Limits
from cogview.data.sources import open_source
from cogview.data.tally import Report, Tally

from .test_images import bomb, encoded, noise


def write(root: Path, name: str, data: bytes, caption: str | None = "a caption") -> None:
    (root / name).write_bytes(data)
    if caption is not None:
        (root / name).with_suffix(".txt").write_text(caption, "utf-8")


@pytest.fixture
def mess(tmp_path: Path) -> Path:
    """A folder with two good pictures and one of every defect a folder can have."""
    root = tmp_path / "mess"
    root.mkdir()
    write(root, "good.png", encoded(noise(20, 20)), "one\ntwo")
    write(root, "grey.jpg", encoded(Image.new("L", (20, 20), 9), "JPEG"))
    write(root, "silent.png", encoded(noise(20, 20)), None)
    write(root, "blank.png", encoded(noise(20, 20)), " \n\n")
    write(root, "cut.png", encoded(noise(40, 40))[:900])
    write(root, "text.png", b"this is no picture")
    write(root, "bomb.png", bomb(60_000, 60_000))
    write(root, "wide.png", encoded(noise(70, 70)))
    write(root, "big.bmp", encoded(noise(64, 64), "BMP"))
    (root / "coded.png").write_bytes(encoded(noise(4, 4)))
    (root / "coded.txt").write_bytes(b"\xff\xfe\xff")
    return root


EXPECTED = {
    "missing caption": 2,
    "truncated": 1,
    "not an image": 1,
    "too many pixels": 2,
    "too many bytes": 1,
    "unreadable record": 1,
}
LIMITS = Limits(max_pixels=64 * 64, max_bytes=10_000)


def test_every_defect_is_counted_by_its_reason(mess: Path) -> None:
    (mess / "wide.png").write_bytes(encoded(Image.new("RGB", (70, 70))))  # small in bytes, large in pixels
    seen: list[tuple[int, int]] = []
    report = check(open_source(mess), LIMITS, lambda done, total: seen.append((done, total)))
    assert report.rejected == EXPECTED
    assert (report.records, report.good, report.bad) == (10, 2, 8)
    assert report.captions == {"": 3}
    assert report.conversions == {"grey": 1}
    assert seen == [(number, 10) for number in range(1, 11)]
    by_key = {example.key: example for example in report.examples}
    assert by_key["cut.png"].place == str(mess / "cut.png")
    assert set(by_key) == {path.name for path in mess.iterdir() if path.suffix != ".txt"} - {
        "good.png",
        "grey.jpg",
    }


def test_lines_explain_what_to_do(mess: Path) -> None:
    text = "\n".join(check(open_source(mess), LIMITS).lines())
    assert "10 records" in text
    assert "write NAME.txt" in text
    assert f"{mess / 'text.png'}: not an image: no known image format" in text


def test_duplicate_keys_and_missing_files_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise(4, 4)))
    rows = [
        ("1", "a.png", "x"),
        ("1", "a.png", "y"),
        ("2", "none.png", "z"),
        ("3", "", "w"),
        ("4", "a.png", ""),
    ]
    lines = ["id,image,caption", *(",".join(row) for row in rows)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    report = check(open_source(tmp_path / "t.csv"))
    assert report.good == 1
    assert report.rejected == {
        "duplicate key": 1,
        "missing file": 1,
        "missing image": 1,
        "missing caption": 1,
    }


def test_a_bad_picture_does_not_use_its_key_up(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise(4, 4)))
    (tmp_path / "t.csv").write_text("id,image,caption\n1,none.png,x\n1,a.png,y\n")
    report = check(open_source(tmp_path / "t.csv"))
    assert (report.good, report.rejected) == (1, {"missing file": 1})


def test_a_tally_goes_on_from_its_report(mess: Path) -> None:
    whole, half = Tally(), Tally()
    seen: set[str] = set()
    found = Decoders(LIMITS, GLANCE, 0).readings(open_source(mess).records())
    for number, (record, reading) in enumerate(found):
        reading = reading.unless_in(seen, record)
        whole.add(reading)
        if number == 4:
            half = Tally.resume(Report.model_validate_json(half.report().model_dump_json()))
        half.add(reading)
    assert half.report() == whole.report()


def test_reports_are_saved_and_read_back(mess: Path, tmp_path: Path) -> None:
    report = check(open_source(mess), LIMITS)
    report.save(tmp_path / "report.json")
    assert Report.model_validate(json.loads((tmp_path / "report.json").read_text())) == report


def test_what_a_folder_holds_besides_is_told(tmp_path: Path) -> None:
    """Orphan captions, the same file twice, pictures that were held sideways."""
    picture = encoded(noise(6, 4))
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(picture if name != "c" else encoded(noise(5, 5)))
        (tmp_path / f"{name}.txt").write_text(f"a picture {name}")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4), "red").save(tmp_path / "d.jpg", exif=exif)
    (tmp_path / "d.txt").write_text("a red one")
    (tmp_path / "gone.txt").write_text("its picture was deleted")
    (tmp_path / "gone.zh.txt").write_text("图片已删除", encoding="utf-8")
    report = check(open_source(tmp_path))
    assert (report.good, report.twins, report.orphans) == (4, 1, 2)
    assert report.conversions == {"turned upright (EXIF)": 1}
    said = "\n".join(report.lines())
    assert "duplicate image files: 1" in said and "caption files without an image: 2" in said


def test_a_caption_that_is_not_utf8_says_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise(4, 4)))
    (tmp_path / "a.txt").write_bytes("une fenêtre".encode("latin-1"))
    report = check(open_source(tmp_path))
    assert report.rejected == {"unreadable record": 1}
    assert "iconv -f ISO-8859-1 -t UTF-8" in report.examples[0].message
