"""Sources that wrap another source: to split its records, set their captions, or translate them."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shlex
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cogview.data.samples import Caption
from cogview.data.sources.record import Record, Source, digest
from cogview.errors import CogViewError
from cogview.files import parse_json, read_bytes
from cogview.tokenizers.language_classes import is_chinese

Translate = Callable[[Sequence[str]], Sequence[str]]
MAX_KEPT = 256 << 20  # bytes of a file of translations
BATCH = 256  # records whose captions are translated at a time


class SplitSource:
    """A source that gives records without a split one: "val" for a share of the keys, else "train".

    The split depends only on a hash of the key, so an image keeps its split when others are added or removed.
    """

    def __init__(self, source: Source, validation: float) -> None:
        self.source, self.validation = source, validation

    def __len__(self) -> int:
        return len(self.source)

    def fingerprint(self) -> str:
        """Changes when the source's files or the share change."""
        return digest([self.source.fingerprint(), repr(self.validation)])

    def records(self, start: int = 0) -> Iterator[Record]:
        """The source's records from number ``start`` on."""
        return map(self._split, self.source.records(start))

    def _split(self, record: Record) -> Record:
        if record.split:
            return record
        fraction = int.from_bytes(hashlib.sha256(record.key.encode()).digest()[:6], "big") / 2**48
        return replace(record, split="val" if fraction < self.validation else "train")


def parse_captions(value: Any) -> Any:
    """Parse texts ``[LANG=]TEXT`` into captions by language ("" for none).

    Anything but a list is returned unchanged.

    Raises:
        CogViewError: a text is empty.
    """
    if not isinstance(value, list | tuple):
        return value
    captions: dict[str, list[str]] = {}
    for text in value:
        language, equals, words = text.partition("=")
        tagged = bool(equals) and language.isascii() and language.isalpha() and len(language) <= 3
        captions.setdefault(language if tagged else "", []).append(words.strip() if tagged else text.strip())
    if not all(text for texts in captions.values() for text in texts):
        raise CogViewError("the text is empty; write LANG=TEXT or TEXT")
    return captions


class CaptionedSource:
    """A source that gives every record the same captions, as in style learning (CogView, section 3.3)."""

    def __init__(self, source: Source, captions: Mapping[str, Sequence[str]]) -> None:
        self.source = source
        self.captions = tuple(
            Caption(text, language) for language, texts in captions.items() for text in texts
        )

    def __len__(self) -> int:
        return len(self.source)

    def fingerprint(self) -> str:
        """Changes when the source or the captions change."""
        return digest([self.source.fingerprint(), repr(self.captions)])

    def records(self, start: int = 0) -> Iterator[Record]:
        """The source's records from number ``start`` on, with these captions instead of their own."""
        return (replace(record, captions=self.captions) for record in self.source.records(start))


class TranslatedSource:
    """A source that adds translated captions, as the paper translated English captions into Chinese.

    A record that already has a caption in ``language`` is left unchanged. ``translate`` returns one text for
    each text; it must be deterministic, and ``name`` must change when the translator does. ``cache`` is a
    folder that stores translations, so that no text is translated twice, by any process.
    """

    def __init__(
        self,
        source: Source,
        translate: Translate,
        language: str = "zh",
        name: str = "",
        cache: Path | None = None,
    ) -> None:
        self.source, self.translate, self.language, self.name = source, translate, language, name
        self._known = Translations(cache, digest([language, name])[:12])

    def __len__(self) -> int:
        return len(self.source)

    def fingerprint(self) -> str:
        """Changes when the source, the language or the name of the translator changes."""
        return digest([self.source.fingerprint(), self.language, self.name])

    def records(self, start: int = 0) -> Iterator[Record]:
        """The source's records from number ``start`` on."""
        records = self.source.records(start)
        while batch := list(itertools.islice(records, BATCH)):
            self._translate_new([caption.text for record in batch for caption in self._untranslated(record)])
            yield from map(self._translated, batch)

    def _untranslated(self, record: Record) -> list[Caption]:
        """The captions of a record that need a translation."""
        if any(self._is_target(caption) for caption in record.captions):
            return []
        return list(record.captions)

    def _is_target(self, caption: Caption) -> bool:
        untagged = self.language == "zh" and not caption.language and is_chinese(caption.text)
        return caption.language == self.language or bool(untagged)

    def _translate_new(self, texts: list[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if not new:
            return
        results = list(self.translate(new))
        if len(results) != len(new):
            raise CogViewError(f"the translation gave {len(results)} texts for {len(new)}; not one for each")
        self._known.add(dict(zip(new, (" ".join(text.split()) for text in results), strict=True)))

    def _translated(self, record: Record) -> Record:
        captions = self._untranslated(record)
        added = [Caption(self._known[c.text], self.language, c.kind) for c in captions if self._known[c.text]]
        return replace(record, captions=tuple(dict.fromkeys([*record.captions, *added]))) if added else record


class Translations:
    """Texts and their translations, in memory and, if a folder is given, on disk.

    Each process appends to its own file, one JSON pair per line, and reads all files of its ``name`` at the
    start, so any number of processes may share the folder. A line cut short by a kill is skipped.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        self._known: dict[str, str] = {}
        self._file = folder / f"{name}-{uuid.uuid4().hex[:8]}.jsonl" if folder else None
        for path in sorted(folder.glob(f"{name}-*.jsonl")) if folder else []:
            for line in read_bytes(path, MAX_KEPT).split(b"\n"):
                with contextlib.suppress(ValueError, TypeError):
                    text, translation = parse_json(line, str(path))
                    self._known[str(text)] = str(translation)

    def __contains__(self, text: str) -> bool:
        return text in self._known

    def __getitem__(self, text: str) -> str:
        return self._known[text]

    def add(self, translations: Mapping[str, str]) -> None:
        """Add translations and store them on disk."""
        self._known.update(translations)
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in translations.items())
        except OSError as error:
            raise CogViewError(
                f"{self._file.parent} cannot be written ({error.strerror}); give another --translations"
            ) from error


def command_translator(command: str, timeout: float = 3600.0) -> Translate:
    """A translator that runs a command: one caption per line on its input, one translation per line back."""
    words = shlex.split(command)
    if not words:
        raise CogViewError(
            "--translate: give a command that reads captions and writes translations, line by line"
        )

    def translate(texts: Sequence[str]) -> list[str]:
        lines = "".join(" ".join(text.split()) + "\n" for text in texts).encode()
        try:
            result = subprocess.run(words, input=lines, capture_output=True, timeout=timeout, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CogViewError(f"--translate {words[0]}: {error}") from error
        if result.returncode:
            messages = result.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
            raise CogViewError(f"--translate {words[0]} ended with {result.returncode}: {messages[-1]}")
        return result.stdout.decode("utf-8", "replace").splitlines()

    return translate
