"""Storage of answers in SQLite: immediate, atomic writes by any number of concurrent raters.

The database is in WAL mode with full synchronization: an answer that is reported as saved survives SIGKILL
and power loss. Each answer has one row; posting the same answer again changes nothing, another one replaces
it. Tokens are not stored: a rater's token is their number and an HMAC of it with the folder's secret.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import sqlite3
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.files import is_regular, read_text
from cogview.study.assignment import half_of, tasks_for
from cogview.study.records import ANSWERS, HIGHEST, SCALES, SECRET, Language, Study, read_study

VERSION = 1
MAX_RATERS = 10_000
TABLES = f"""
CREATE TABLE study (id TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT;
CREATE TABLE raters (
    rater INTEGER PRIMARY KEY, half INTEGER NOT NULL, language TEXT, created TEXT NOT NULL
) STRICT;
CREATE TABLE shown (
    rater INTEGER NOT NULL REFERENCES raters, position INTEGER NOT NULL, slot INTEGER NOT NULL,
    caption TEXT NOT NULL, model TEXT NOT NULL,
    PRIMARY KEY (rater, position, slot), UNIQUE (rater, caption, model)
) STRICT;
CREATE TABLE scores (
    rater INTEGER NOT NULL, position INTEGER NOT NULL, slot INTEGER NOT NULL,
    {", ".join(f"{s} INTEGER NOT NULL CHECK ({s} BETWEEN 1 AND {HIGHEST[s]})" for s in SCALES)},
    saved TEXT NOT NULL, changed TEXT,
    PRIMARY KEY (rater, position, slot), FOREIGN KEY (rater, position, slot) REFERENCES shown
) STRICT;
CREATE TABLE choices (
    rater INTEGER NOT NULL, position INTEGER NOT NULL, slot INTEGER NOT NULL,
    saved TEXT NOT NULL, changed TEXT,
    PRIMARY KEY (rater, position), FOREIGN KEY (rater, position, slot) REFERENCES shown
) STRICT;
"""
ROWS = f"""
SELECT s.rater, r.half, s.position, s.slot, s.caption, s.model, {", ".join("a." + s for s in SCALES)},
       CASE WHEN c.slot IS NULL THEN NULL ELSE c.slot = s.slot END, a.saved
FROM shown s JOIN raters r USING (rater) LEFT JOIN scores a USING (rater, position, slot)
LEFT JOIN choices c USING (rater, position) ORDER BY s.rater, s.position, s.slot
"""


class NotYet(Exception):
    """The best image of a group was chosen before all of its images were scored."""


@dataclass(frozen=True)
class Shown:
    """An image shown to a rater: the caption (a group's key) and the model."""

    caption: str
    model: str


@dataclass(frozen=True)
class Progress:
    """A rater's tasks and answers; positions and slots count from 1.

    shown: (position, slot) to the image; scores: (position, slot) to the four scores; choices: position to
    slot.
    """

    rater: int
    language: Language | None
    shown: Mapping[tuple[int, int], Shown]
    scores: Mapping[tuple[int, int], Mapping[str, int]]
    choices: Mapping[int, int]

    @property
    def positions(self) -> int:
        """The number of captions."""
        return max(position for position, _ in self.shown)

    def slots(self, position: int) -> int:
        """The number of images of a caption; 0 if there is no such position."""
        return sum(at == position for at, _ in self.shown)

    @property
    def steps(self) -> list[tuple[int, int | None]]:
        """All steps in order: (position, slot) for scores, and (position, None) for the choice."""
        steps: list[tuple[int, int | None]] = []
        for position in range(1, self.positions + 1):
            steps += [(position, slot) for slot in range(1, self.slots(position) + 1)]
            steps.append((position, None))
        return steps

    def answered(self, step: tuple[int, int | None]) -> bool:
        """Whether a step has an answer."""
        position, slot = step
        return position in self.choices if slot is None else (position, slot) in self.scores

    @property
    def next(self) -> tuple[int, int | None] | None:
        """The first step without an answer; None if all have one."""
        return next((step for step in self.steps if not self.answered(step)), None)


class Answer(Config):
    """An image shown to a rater and its ratings; None for ratings not given yet.

    half: 0 or 1 of the A-B test; best: whether it was chosen as the best of its group.
    """

    rater: int
    half: int
    position: int
    slot: int
    caption: str
    model: str
    clarity: int | None
    texture: int | None
    relevance: int | None
    overall: int | None
    best: bool | None
    saved: str | None


class Store:
    """The answers of a study's folder; thread-safe and process-safe."""

    def __init__(self, directory: Path, study: Study, key: bytes) -> None:
        self.directory, self.study, self._key = directory, study, key

    @classmethod
    def create(cls, directory: Path, study: Study) -> Store:
        """Create an empty database and a new secret in a folder that has neither."""
        key = secrets.token_bytes(32)
        with os.fdopen(os.open(directory / SECRET, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(key.hex() + "\n")
        store = cls(directory, study, key)
        os.close(os.open(directory / ANSWERS, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # raters' answers
        with contextlib.closing(sqlite3.connect(directory / ANSWERS, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.executescript(f"BEGIN; {TABLES} COMMIT;")
            database.execute("INSERT INTO study VALUES (?, ?)", (study.id, VERSION))
        return store

    @classmethod
    def open(cls, directory: Path) -> Store:
        """Open the store of a folder; CogViewError if a file is missing, broken or of another study."""
        study = read_study(directory)
        try:
            key = bytes.fromhex(read_text(directory / SECRET, 1024, "ascii"))
        except ValueError as error:
            raise CogViewError(f"{directory / SECRET}: cannot be read; restore the study's folder") from error
        if not is_regular(directory / ANSWERS) or len(key) < 16:
            raise CogViewError(f"{directory}: {ANSWERS} or {SECRET} is missing; restore the folder")
        store = cls(directory, study, key)
        with store._database() as database:
            row = database.execute("SELECT id, version FROM study").fetchone()
        if row != (study.id, VERSION):
            raise CogViewError(f"{directory / ANSWERS}: belongs to another study, or to another version")
        return store

    @contextlib.contextmanager
    def _database(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection with one transaction; with ``write``, it waits for the write lock."""
        path = self.directory / ANSWERS
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as database:
                database.execute("PRAGMA foreign_keys=ON")
                database.execute("PRAGMA synchronous=FULL")
                database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                try:
                    yield database
                except BaseException:
                    database.rollback()
                    raise
                database.commit()
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise CogViewError(f"{path}: {error}") from error

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Keep one connection open, as the last one to close locks the database and truncates the log."""
        with contextlib.closing(sqlite3.connect(self.directory / ANSWERS, isolation_level=None)) as database:
            _count(database)
            yield

    # -------------------------------------------------------------------------------------------- raters

    def invite(self, count: int) -> int:
        """Add raters, with their tasks, until there are ``count``; returns the number of raters."""
        if count > MAX_RATERS:
            raise CogViewError(f"{count} raters are more than the maximum of {MAX_RATERS} per study")
        with self._database(write=True) as database:
            existing = _count(database)
            for rater in range(existing + 1, count + 1):
                self._add(database, rater)
        return max(existing, count)

    def _add(self, database: sqlite3.Connection, rater: int) -> None:
        half = half_of(self.study, rater)
        database.execute("INSERT INTO raters VALUES (?, ?, NULL, ?)", (rater, half, _now()))
        rows = [
            (rater, position, slot, self.study.groups[task.group].key, model)
            for position, task in enumerate(tasks_for(self.study, rater), 1)
            for slot, model in enumerate(task.models, 1)
        ]
        database.executemany("INSERT INTO shown VALUES (?, ?, ?, ?, ?)", rows)

    def raters(self) -> int:
        """The number of invited raters."""
        with self._database() as database:
            return _count(database)

    def token(self, rater: int) -> str:
        """The token in a rater's link: the number and 128 bits that only the secret's owner can compute."""
        code = hmac.digest(self._key, f"{self.study.id} rater {rater}".encode(), hashlib.sha256)[:16]
        return f"{rater}-{urlsafe_b64encode(code).decode().rstrip('=')}"

    def rater(self, token: str) -> int | None:
        """The rater of a token; None if it is invalid."""
        match = re.fullmatch(r"([1-9][0-9]{0,4})-[A-Za-z0-9_-]{22}", token, re.ASCII)
        if not match or not hmac.compare_digest(self.token(int(match[1])).encode(), token.encode()):
            return None
        with self._database() as database:
            row = database.execute("SELECT 1 FROM raters WHERE rater = ?", (int(match[1]),)).fetchone()
        return int(match[1]) if row else None

    def set_language(self, rater: int, language: Language) -> None:
        """Store the language of a rater's pages."""
        with self._database(write=True) as database:
            database.execute("UPDATE raters SET language = ? WHERE rater = ?", (language, rater))

    # -------------------------------------------------------------------------------------------- answers

    def progress(self, rater: int) -> Progress:
        """A rater's tasks and answers."""
        with self._database() as database:

            def rows(columns: str, table: str) -> list[tuple[int, ...]]:
                return database.execute(f"SELECT {columns} FROM {table} WHERE rater = ?", (rater,)).fetchall()

            shown = rows("position, slot, caption, model", "shown ")
            scores = rows(f"position, slot, {', '.join(SCALES)}", "scores")
            choices = rows("position, slot", "choices")
            ((language,),) = rows("language", "raters")
        return Progress(
            rater,
            language,  # type: ignore[arg-type]
            {(row[0], row[1]): Shown(*row[2:]) for row in shown},  # type: ignore[arg-type]
            {(row[0], row[1]): dict(zip(SCALES, row[2:], strict=True)) for row in scores},
            {row[0]: row[1] for row in choices},
        )

    def score(self, rater: int, position: int, slot: int, scores: Mapping[str, int]) -> None:
        """Save the four scores of an image; sqlite3.IntegrityError if there is no such image."""
        values = [scores[name] for name in SCALES]
        names = ", ".join(SCALES)
        with self._database(write=True) as database:
            database.execute(
                f"INSERT INTO scores (rater, position, slot, {names}, saved) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
                f" ON CONFLICT DO UPDATE SET {', '.join(f'{s} = excluded.{s}' for s in SCALES)},"
                f" changed = excluded.saved"
                f" WHERE ({names}) != ({', '.join(f'excluded.{s}' for s in SCALES)})",
                (rater, position, slot, *values, _now()),
            )

    def choose(self, rater: int, position: int, slot: int) -> None:
        """Save the best image of a group; NotYet if images of the group are not scored yet."""
        with self._database(write=True) as database:
            key = (rater, position)
            count = "SELECT count(*) FROM {} WHERE rater = ? AND position = ?"
            shown, scored = (database.execute(count.format(t), key).fetchone() for t in ("shown", "scores"))
            if shown != scored:
                raise NotYet
            database.execute(
                "INSERT INTO choices (rater, position, slot, saved) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET slot = excluded.slot, changed = excluded.saved"
                " WHERE slot != excluded.slot",
                (rater, position, slot, _now()),
            )

    def answers(self) -> list[Answer]:
        """Every image shown to every rater, in order, with its ratings."""
        with self._database() as database:
            rows = database.execute(ROWS).fetchall()
        names = tuple(Answer.model_fields)
        return [Answer(**dict(zip(names, row, strict=True))) for row in rows]


def _count(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT count(*) FROM raters").fetchone()[0])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
