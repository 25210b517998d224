"""Hugging Face data sets saved on disk (``save_to_disk``), read with pyarrow only.

Either a directory with ``state.json``, ``dataset_info.json`` and Arrow stream files, or ``dataset_dict.json``
and one such directory per split. Images are ``{"bytes", "path"}`` structs or bytes. Without a caption column,
the names of a class label serve as captions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cogview.config import load_json
from cogview.data.sources.record import Columns, Record, caption_columns, digest, stamp
from cogview.data.sources.tables import arrow_record, arrow_row, damage, import_arrow
from cogview.errors import CogViewError
from cogview.files import check_regular, readable

SPLITS = {"validation": "val", "valid": "val", "dev": "val"}


def is_saved(path: Path) -> bool:
    """Whether a directory was written by ``save_to_disk``."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


class SavedSource:
    """One saved data set, or all splits of several saved together."""

    def __init__(self, root: Path, columns: Columns) -> None:
        self.root, self._arrow = root, import_arrow("pyarrow")
        self._ipc = import_arrow("pyarrow.ipc")
        self.files = [(split, path) for split, folder in _splits(root) for path in _files(folder)]
        if not self.files:
            raise CogViewError(f"{root} holds no Arrow files; save the data set again with save_to_disk")
        with self._open(self.files[0][1]) as reader:
            names = list(reader.schema.names)
        self.labels = _labels(self.files[0][1].parent, names)
        if not columns.captions and not caption_columns(names) and self.labels:
            columns = columns.model_copy(update={"captions": {"": next(iter(self.labels))}})
        self.columns = columns.completed(names, str(root))
        self.counts = [self._count(path) for _, path in self.files]

    def _open(self, path: Path) -> Any:
        check_regular(path)
        with damage(path):
            return self._ipc.open_stream(self._arrow.memory_map(str(path)))

    def _batches(self, path: Path) -> Iterator[Any]:
        with self._open(path) as reader:
            batches = iter(reader)
            while True:
                with damage(path):
                    batch = next(batches, None)
                    if batch is None:
                        return
                    batch.validate(full=True)  # otherwise offsets past the end would be read
                yield batch

    def _count(self, path: Path) -> int:
        return sum(batch.num_rows for batch in self._batches(path))

    def __len__(self) -> int:
        return sum(self.counts)

    def fingerprint(self) -> str:
        """Changes when any of the Arrow files changes."""
        return digest([*(stamp(path) for _, path in self.files), self.columns.model_dump_json()])

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on, split by split."""
        for (split, path), count in zip(self.files, self.counts, strict=True):
            if start < count:
                yield from self._file_records(split, path, start)
            start = max(0, start - count)

    def _file_records(self, split: str, path: Path, start: int) -> Iterator[Record]:
        number = 0
        for batch in self._batches(path):
            skipped = min(max(0, start - number), batch.num_rows)
            with damage(path):
                selected = batch.select(self.columns.all_names())
            for offset in range(skipped, batch.num_rows):
                yield self._record(split, path, number + offset, *arrow_row(selected, offset))
            number += batch.num_rows

    def _record(self, split: str, path: Path, number: int, row: dict[str, Any], problem: str) -> Record:
        for column, names in self.labels.items():
            value = row.get(column)
            if type(value) is int and 0 <= value < len(names):
                row[column] = names[value]
        name = f"{split}/{path.stem}/{number}" if split else f"{path.stem}/{number}"
        place = f"{path}, row {number + 1}"
        source = readable(self.root.resolve().name)
        record = arrow_record(row, self.columns, path.parent, name, source, place, problem)
        return record if record.split or not split else replace(record, split=split)


def _splits(root: Path) -> list[tuple[str, Path]]:
    """(split, directory) pairs; the split is "" for a data set saved alone."""
    if not (root / "dataset_dict.json").is_file():
        return [("", root)]
    content = load_json(root / "dataset_dict.json")
    names = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CogViewError(f"{root / 'dataset_dict.json'} lists no splits; save the data set again")
    return [(SPLITS.get(str(name), str(name)), root / _inside(str(name))) for name in names]


def _inside(name: str) -> str:
    """The last part of a path; empty if it leads upwards."""
    last = Path(name).name
    return "" if last == ".." else last


def _files(folder: Path) -> list[Path]:
    """The Arrow files in order, as ``state.json`` lists them."""
    state = load_json(folder / "state.json")
    listed = state.get("_data_files") if isinstance(state, dict) else None
    if not isinstance(listed, list):
        return sorted(folder.glob("*.arrow"))
    return [folder / _inside(str(entry.get("filename", ""))) for entry in listed if isinstance(entry, dict)]


def _labels(folder: Path, names: list[str]) -> dict[str, list[str]]:
    """Class names by column, from ``dataset_info.json``."""
    path = folder / "dataset_info.json"
    info = load_json(path) if path.is_file() else {}
    features = info.get("features") if isinstance(info, dict) else None
    labels: dict[str, list[str]] = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        if column in names and isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            classes = feature.get("names")
            labels[column] = [str(name) for name in classes] if isinstance(classes, list) else []
    return labels
