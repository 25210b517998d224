"""Opens image-caption data on disk as a stream of records (:func:`open_source`).

=====================  =====================================================================================
folder                 images with caption files beside them (``cat.png`` and ``cat.txt``, one caption per
                       line; ``cat.en.txt`` names the language), or with one table of captions
table                  CSV, TSV, JSON, JSONL with a column of paths; Parquet, or a folder of Parquet files
archive                zip or tar of the above, read in place; a folder of tars is WebDataset
saved                  a Hugging Face data set written by ``save_to_disk``
=====================  =====================================================================================

Languages come from the column names (``en``, ``caption_zh``) or from :class:`Columns`. The order of a
source's records is fixed, so a build can be interrupted and resumed. Wrappers add splits, the same captions
for all records, or translated captions.
"""

from __future__ import annotations

from pathlib import Path

from cogview.data.sources.archives import ArchiveSource, ShardsSource, is_archive
from cogview.data.sources.folder import FolderSource
from cogview.data.sources.record import IMAGE_SUFFIXES, Columns, Record, Source
from cogview.data.sources.rows import TABLE_SUFFIXES
from cogview.data.sources.saved import SavedSource, is_saved
from cogview.data.sources.tables import ParquetSource, TableSource
from cogview.data.sources.wrappers import (
    CaptionedSource,
    SplitSource,
    TranslatedSource,
    command_translator,
    parse_captions,
)
from cogview.errors import CogViewError

__all__ = [
    "IMAGE_SUFFIXES",
    "VALIDATION",
    "ArchiveSource",
    "CaptionedSource",
    "Columns",
    "FolderSource",
    "ParquetSource",
    "Record",
    "SavedSource",
    "ShardsSource",
    "Source",
    "SplitSource",
    "TableSource",
    "TranslatedSource",
    "command_translator",
    "open_source",
    "parse_captions",
]

VALIDATION = 0.02


def open_source(
    path: str | Path,
    columns: Columns | None = None,
    images: str | Path | None = None,
    validation: float = VALIDATION,
) -> Source:
    """Open the folder, table, archive or saved data set at ``path`` (see the module).

    ``images`` is the folder that image paths in a table are relative to (default: the table's folder).
    Without a split column, ``validation`` is the share of records that go to the split "val"; the others
    are "train". Raises CogViewError if there is nothing to read.
    """
    root = Path(path)
    columns = columns or Columns()
    base = Path(images) if images else None
    if not root.exists():
        raise CogViewError(
            f"{root} does not exist; give a folder of images, a table, an archive or a saved data set"
        )
    source = _open_folder(root, columns, base) if root.is_dir() else _open_file(root, columns, base)
    if len(source) == 0:
        raise CogViewError(
            f"{root} holds no samples; a folder needs images ({' '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return SplitSource(source, validation)


def _open_folder(root: Path, columns: Columns, images: Path | None) -> Source:
    if is_saved(root):
        return SavedSource(root, columns)
    if any(root.glob("*.parquet")):
        return ParquetSource(root, columns, images)
    folder = FolderSource(root)
    shards = sorted(file for file in root.iterdir() if file.is_file() and is_archive(file))
    if len(folder) == 0 and shards:
        return ShardsSource(shards, columns)
    tables = [file for file in root.iterdir() if file.suffix.lower() in TABLE_SUFFIXES and file.is_file()]
    if len(tables) == 1 and len(folder) and not folder.captioned:
        return TableSource(tables[0], columns, images)
    return folder


def _open_file(path: Path, columns: Columns, images: Path | None) -> Source:
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES:
        return TableSource(path, columns, images)
    if suffix == ".parquet":
        return ParquetSource(path, columns, images)
    if is_archive(path):
        return ArchiveSource(path, columns)
    raise CogViewError(
        f"{path}: unknown kind of data; give a folder, .csv, .tsv, .json, .jsonl, .parquet, .zip or .tar"
    )
