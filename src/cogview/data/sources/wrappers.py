"""Sources around sources: a split for every record, captions given for all, captions translated."""

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
TOGETHER = 256  # records whose captions are translated at a time


class SplitSource:
    """A source whose records without a split get one: "val" for a share of the keys, else "train".

    It hangs on a hash of the key alone, so an image stays on its side when others come and go.
    """

    def __init__(self, source: Source, validation: float) -> None:
        self.source, self.validation = source, validation

    def __len__(self) -> int:
        return len(self.source)

    def fingerprint(self) -> str:
        """Changes with the source's files and with the share."""
        return digest([self.source.fingerprint(), repr(self.validation)])

    def records(self, start: int = 0) -> Iterator[Record]:
        """The source's records from number ``start`` on."""
        return map(self._split, self.source.records(start))

    def _split(self, record: Record) -> Record:
        if record.split:
            return record
        fraction = int.from_bytes(hashlib.sha256(record.key.encode()).digest()[:6], "big") / 2**48
        return replace(record, split="val" if fraction < self.validation else "train")


def parse_captions(given: Any) -> Any:
    """Captions by language, of texts ``[LANG=]TEXT``; a text without a language has none.

    Anything else than a list is returned as it is.

    Raises:
        CogViewError: an empty text.
    """
    if not isinstance(given, list | tuple):
        return given
    found: dict[str, list[str]] = {}
    for text in given:
        language, equals, words = text.partition("=")
        tagged = bool(equals) and language.isascii() and language.isalpha() and len(language) <= 3
        found.setdefault(language if tagged else "", []).append(words.strip() if tagged else text.strip())
    if not all(text for texts in found.values() for text in texts):
        raise CogViewError("the text is empty; write LANG=TEXT or TEXT")
    return found


class CaptionedSource:
    """A source whose every record has the same captions, as in style learning (CogView, section 3.3)."""

    def __init__(self, source: Source, captions: Mapping[str, Sequence[str]]) -> None:
        self.source = source
        self.captions = tuple(
            Caption(text, language) for language, given in captions.items() for text in given
        )

    def __len__(self) -> int:
        return len(self.source)

    def fingerprint(self) -> str:
        """Changes with the source and the captions."""
        return digest([self.source.fingerprint(), repr(self.captions)])

    def records(self, start: int = 0) -> Iterator[Record]:
        """The source's records from number ``start`` on, with these captions instead of their own."""
        return (replace(record, captions=self.captions) for record in self.source.records(start))


class TranslatedSource:
    """A source whose captions are also given in another language, as the paper put English into Chinese.

    A record that has a caption in ``language`` already stays as it is. ``translate`` takes some texts and
    gives as many; it must always give the same for the same, and ``name`` changes when it does. ``cache`` is
    a folder where translations are kept: what was translated once, by whichever process, is not again.
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
        """Changes with the source, the language and the name of the translator."""
        return digest([self.source.fingerprint(), self.language, self.name])

    def records(self, start: int = 0) -> Iterator[Record]:
        """The source's records from number ``start`` on."""
        records = self.source.records(start)
        while some := list(itertools.islice(records, TOGETHER)):
            self._learn([caption.text for record in some for caption in self._wanted(record)])
            yield from map(self._translated, some)

    def _wanted(self, record: Record) -> list[Caption]:
        """The captions of a record that are to be translated."""
        if any(self._is_target(caption) for caption in record.captions):
            return []
        return list(record.captions)

    def _is_target(self, caption: Caption) -> bool:
        untagged = self.language == "zh" and not caption.language and is_chinese(caption.text)
        return caption.language == self.language or bool(untagged)

    def _learn(self, texts: list[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if not new:
            return
        found = list(self.translate(new))
        if len(found) != len(new):
            raise CogViewError(f"the translation gave {len(found)} texts for {len(new)}; not one for each")
        self._known.add(dict(zip(new, (" ".join(text.split()) for text in found), strict=True)))

    def _translated(self, record: Record) -> Record:
        wanted = self._wanted(record)
        added = [Caption(self._known[c.text], self.language, c.kind) for c in wanted if self._known[c.text]]
        return replace(record, captions=tuple(dict.fromkeys([*record.captions, *added]))) if added else record


class Translations:
    """Texts and their translations, in memory and, if a folder is given, on disk.

    A process appends to a file of its own, one JSON pair a line, and reads all of one ``name`` when it
    begins, so any number may share the folder; a line that a kill cut short is left out.
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

    def add(self, found: Mapping[str, str]) -> None:
        """Take in some translations and write them down."""
        self._known.update(found)
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in found.items())
        except OSError as error:
            raise CogViewError(
                f"{self._file.parent} cannot be written ({error.strerror}); give another --translations"
            ) from error


def command_translator(command: str, timeout: float = 3600.0) -> Translate:
    """A translator that is a command: captions on its standard input, one a line, as many lines back."""
    words = shlex.split(command)
    if not words:
        raise CogViewError(
            "--translate: give a command that reads captions and writes translations, line by line"
        )

    def translate(texts: Sequence[str]) -> list[str]:
        given = "".join(" ".join(text.split()) + "\n" for text in texts).encode()
        try:
            done = subprocess.run(words, input=given, capture_output=True, timeout=timeout, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CogViewError(f"--translate {words[0]}: {error}") from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
            raise CogViewError(f"--translate {words[0]} ended with {done.returncode}: {said[-1]}")
        return done.stdout.decode("utf-8", "replace").splitlines()

    return translate
