"""The text tokenizer, based on SentencePiece (CogView, section 2.1; CogView2, section 3).

Loads any SentencePiece model, including CogView's (BPE, 50,000 tokens) and icetk's (unigram, 130,000), and
trains new ones. Its token ids start at 0; :class:`~cogview.vocabulary.Vocabulary` maps them to ids of the
joint vocabulary with image codes and control tokens.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import sentencepiece
from numpy.typing import ArrayLike

from cogview.errors import CogViewError
from cogview.files import read_bytes, write_file
from cogview.vocabulary import MOST

MAX_MODEL_BYTES = 32 << 20
SPELLS_ALL = 1000  # tokens; a smaller vocabulary consists mostly of letters and syllables
MAX_LINE_BYTES = 1 << 16  # longer training texts are skipped

_BYTE = re.compile("<0x[0-9A-F]{2}>")
Normalization = Literal["nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf", "identity"]


class TextTokenizer:
    """Converts text to token ids and back.

    Args:
        model: the serialised SentencePiece model.
        newline: the token for a line break, if the model has one (icetk: ``<n>``); ``decode`` turns it into a
            line break, ``encode`` uses it to keep line breaks.
        where: the model's name in error messages.

    Raises CogViewError if ``model`` is damaged, no SentencePiece model, or larger than 32 MiB.
    """

    def __init__(self, model: bytes, newline: str | None = None, where: str = "text tokenizer") -> None:
        self.model, self.newline = model, newline
        self._processor = sentencepiece.SentencePieceProcessor()
        if len(model) > MAX_MODEL_BYTES:
            raise CogViewError(f"{where}: {len(model):,} bytes is too large for a SentencePiece model")
        try:
            loaded = bool(model) and self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, ValueError, OSError) as error:
            raise CogViewError(f"{where}: not a SentencePiece model, or a damaged one") from error
        if not loaded or not self.pieces:
            raise CogViewError(f"{where}: not a SentencePiece model, or a damaged one")
        if newline is not None and self.piece_id(newline) is None:
            raise CogViewError(f"{where}: has no token {newline!r} for line breaks")

    def __reduce__(self) -> tuple[type[TextTokenizer], tuple[bytes, str | None]]:
        return type(self), (self.model, self.newline)

    @classmethod
    def from_file(cls, path: Path | str, newline: str | None = None) -> TextTokenizer:
        """Load a SentencePiece ``.model`` file."""
        return cls(read_bytes(path, MAX_MODEL_BYTES), newline, where=str(path))

    def save(self, path: Path | str) -> None:
        """Write the model atomically; ``from_file`` loads an equal one."""
        write_file(Path(path), self.model)

    def extended(self, pieces: Iterable[str]) -> TextTokenizer:
        """This tokenizer with appended normal tokens of score 0, as icetk adds its control tokens.

        Raises CogViewError for a token that already exists.
        """
        added = bytearray()
        for piece in pieces:
            if self.piece_id(piece) is not None:
                raise CogViewError(f"the text tokenizer already has a token {piece!r}")
            added += _field(1, _field(1, _utf8(piece)))  # ModelProto.pieces, SentencePiece.piece
        return type(self)(self.model + bytes(added), self.newline)

    @cached_property
    def pieces(self) -> int:
        """The number of tokens; ids are 0 ... ``pieces`` - 1."""
        return int(self._processor.GetPieceSize())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the model's bytes, in hexadecimal."""
        return hashlib.sha256(self.model).hexdigest()

    @property
    def unknown(self) -> int:
        """The id of the unknown token."""
        return int(self._processor.unk_id())

    def piece(self, piece_id: int) -> str:
        """The string of a token; a leading ``▁`` stands for a space."""
        self._check([piece_id])
        return str(self._processor.IdToPiece(piece_id))

    def piece_id(self, piece: str) -> int | None:
        """The id of the token with string ``piece``, or None if it does not exist."""
        piece_id = int(self._processor.PieceToId(piece))
        return piece_id if self._processor.IdToPiece(piece_id) == piece else None

    def encode(self, text: str, keep_newlines: bool = False) -> list[int]:
        """Token ids of ``text``, without start and end tokens; empty for an empty text.

        Line breaks count as spaces unless ``keep_newlines`` is set and the model has a token for them.
        """
        return list(self._processor.EncodeAsIds(self._bytes(text, keep_newlines)))

    def split(self, text: str, keep_newlines: bool = False) -> list[str]:
        """The tokens of :meth:`encode` as strings; unknown ones as written in the text."""
        return list(map(str, self._processor.EncodeAsPieces(self._bytes(text, keep_newlines))))

    def unfamiliar(self, text: str) -> list[str]:
        """The words of a text that were rare in training: spelled in bytes, or with fewer than two Latin
        letters a token. Empty if the vocabulary is so small that all words are spelled."""
        words = list[str]()
        if self.pieces < SPELLS_ALL:
            return words
        for word in re.findall(r"[^\W\d_]+", text):
            pieces = self.split(word)
            latin = all(ord(letter) < 0x250 for letter in word)
            if any(_BYTE.fullmatch(piece) for piece in pieces) or (latin and len(word) < 2 * len(pieces) > 4):
                words.append(word)
        return words

    def _bytes(self, text: str, keep_newlines: bool) -> bytes:
        if keep_newlines and self.newline is not None:
            text = text.replace("\n", self.newline)
        return _utf8(text)

    def decode(self, ids: ArrayLike) -> str:
        """The text of token ids (n,); raises CogViewError for an id outside the vocabulary."""
        pieces = np.asarray(ids, dtype=np.int64).ravel().tolist()
        self._check(pieces)
        text = str(self._processor.DecodeIds(pieces)) if pieces else ""
        return text if self.newline is None else text.replace(self.newline, "\n")

    def _check(self, ids: Iterable[int]) -> None:
        for piece_id in ids:
            if not 0 <= piece_id < self.pieces:
                raise CogViewError(f"token {piece_id} is outside the text tokenizer's {self.pieces}")

    @classmethod
    def train(
        cls,
        texts: Iterable[str] | Path,
        pieces: int,
        *,
        algorithm: Literal["unigram", "bpe"] = "unigram",
        byte_fallback: bool = True,
        character_coverage: float = 0.9995,
        normalization: Normalization = "nmt_nfkc",
        user_defined: Iterable[str] = (),
        threads: int = 1,
    ) -> TextTokenizer:
        """Train a tokenizer on ``texts``, one sentence each, or on the lines of a UTF-8 file.

        The same texts in the same order give the same bytes. Token 0 is the unknown token; there are no
        start, end or padding tokens, which are control tokens of the vocabulary.

        Args:
            pieces: number of tokens, including the 256 bytes of ``byte_fallback`` and ``user_defined``.
            byte_fallback: spell uncovered characters in UTF-8 bytes, so that no text loses information.
            character_coverage: fraction of the characters in the texts that get a token.
            normalization: SentencePiece's rule; all but ``identity`` normalise full-width characters (NFKC).
            user_defined: strings that always stay one token.
            threads: of the trainer; the result may depend on their number.

        Raises CogViewError if the texts do not suffice for this many tokens or cannot be read.
        """
        if not 1 <= pieces <= MOST:
            raise CogViewError(f"text tokenizer of {pieces} pieces: give 1 to {MOST:,}", field="pieces")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=_lines(texts),
                model_writer=model,
                vocab_size=pieces,
                model_type=algorithm,
                byte_fallback=byte_fallback,
                character_coverage=character_coverage,
                normalization_rule_name=normalization,
                user_defined_symbols=list(user_defined),
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                num_threads=threads,
                shuffle_input_sentence=False,
                max_sentence_length=MAX_LINE_BYTES,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            raise CogViewError(f"text tokenizer of {pieces} pieces: {_reason(str(error))}") from error
        return cls(model.getvalue())


def _reason(message: str) -> str:
    """SentencePiece's error message in plain words."""
    if most := re.search(r"value <= (\d+)", message):
        return f"the texts suffice for {most[1]} at most"
    if least := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return f"their characters alone need {least[1]}"
    plain = re.sub(r"(?s)^.*\] |^INTERNAL: (\w+: )?|\n.*$", "", message).strip()
    return plain or "there are no texts to learn from"


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protocol-buffer field; appending it to a message extends a repeated field."""
    head, length = bytearray([number << 3 | 2]), len(content)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(head) + bytes([length]) + content


def split_fields(message: bytes) -> list[tuple[int, bytes]]:
    """The length-delimited fields of a protocol-buffer message in order, as (number, content).

    Raises CogViewError if there are other fields; a SentencePiece model has none.
    """
    fields, at = list[tuple[int, bytes]](), 0
    try:
        while at < len(message):
            key, at = _varint(message, at)
            length, at = _varint(message, at)
            if key & 7 != 2 or at + length > len(message):
                raise IndexError
            fields.append((key >> 3, message[at : at + length]))
            at += length
    except IndexError as error:
        raise CogViewError("text tokenizer: not a SentencePiece model, or a damaged one") from error
    return fields


def join_fields(fields: Iterable[tuple[int, bytes]]) -> bytes:
    """The message of these fields, the inverse of :func:`split_fields`."""
    return b"".join(_field(number, content) for number, content in fields)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A varint of seven bits a byte, and its end; raises IndexError if the message ends before it."""
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CogViewError(f"{text[:40]!r}: not valid Unicode, it contains an unpaired surrogate") from error


def _lines(texts: Iterable[str] | Path) -> Iterator[bytes]:
    """The training texts in UTF-8, one per line."""
    if isinstance(texts, Path):
        try:
            with texts.open(encoding="utf-8") as file:
                yield from (_utf8(line.rstrip("\n")) for line in file)
        except (OSError, UnicodeDecodeError) as error:
            raise CogViewError(f"{texts}: not a readable UTF-8 text file") from error
    else:
        yield from (_utf8(" ".join(text.splitlines())) for text in texts)
