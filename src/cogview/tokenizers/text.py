"""Text tokenizer: sentences to tokens and back, by SentencePiece (CogView, section 2.1; CogView2, section 3).

Loads any SentencePiece model, CogView's (BPE, 50,000 tokens) and icetk's (unigram, 130,000) among them, and
trains new ones. Ids are the tokenizer's own, from 0; :class:`~cogview.vocabulary.Vocabulary` gives them their
place among the image codes and the control tokens.
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
SPELLS_ALL = 1000  # tokens; fewer are letters and syllables mostly
MAX_LINE_BYTES = 1 << 16  # longer training texts are left out

_BYTE = re.compile("<0x[0-9A-F]{2}>")
Normalization = Literal["nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf", "identity"]


class TextTokenizer:
    """Text to piece ids and back.

    Args:
        model: the serialised SentencePiece model.
        newline: the piece that stands for a line break, where the model has one (icetk: ``<n>``); ``decode``
            turns it into a line break, ``encode`` uses it when asked to keep line breaks.
        where: what to call the model in an error.

    Raises CogViewError when ``model`` is damaged, something else, or larger than 32 MiB.
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
            raise CogViewError(f"{where}: has no piece {newline!r} for line breaks")

    def __reduce__(self) -> tuple[type[TextTokenizer], tuple[bytes, str | None]]:
        return type(self), (self.model, self.newline)

    @classmethod
    def from_file(cls, path: Path | str, newline: str | None = None) -> TextTokenizer:
        """The tokenizer in a SentencePiece ``.model`` file."""
        return cls(read_bytes(path, MAX_MODEL_BYTES), newline, where=str(path))

    def save(self, path: Path | str) -> None:
        """Write the model; ``from_file`` reads it back to an equal one. Appears whole or not at all."""
        write_file(Path(path), self.model)

    def extended(self, pieces: Iterable[str]) -> TextTokenizer:
        """This tokenizer with more ordinary tokens of score 0 after its own, as icetk adds its controls.

        Raises CogViewError for a piece that is there already.
        """
        added = bytearray()
        for piece in pieces:
            if self.piece_id(piece) is not None:
                raise CogViewError(f"the text tokenizer has a piece {piece!r} already")
            added += _field(1, _field(1, _utf8(piece)))  # ModelProto.pieces, SentencePiece.piece
        return type(self)(self.model + bytes(added), self.newline)

    @cached_property
    def pieces(self) -> int:
        """How many tokens there are; ids are 0 ... ``pieces`` - 1."""
        return int(self._processor.GetPieceSize())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the model's bytes, in hexadecimal."""
        return hashlib.sha256(self.model).hexdigest()

    @property
    def unknown(self) -> int:
        """The id of the piece for what the model cannot spell."""
        return int(self._processor.unk_id())

    def piece(self, piece_id: int) -> str:
        """How a piece is written; a leading ``▁`` stands for a space."""
        self._check([piece_id])
        return str(self._processor.IdToPiece(piece_id))

    def piece_id(self, piece: str) -> int | None:
        """The id of the piece written ``piece``, None if there is none."""
        found = int(self._processor.PieceToId(piece))
        return found if self._processor.IdToPiece(found) == piece else None

    def encode(self, text: str, keep_newlines: bool = False) -> list[int]:
        """Piece ids of ``text``, without marks for its start and end; empty for an empty text.

        Line breaks count as spaces unless ``keep_newlines`` and the model has a piece for them.
        """
        return list(self._processor.EncodeAsIds(self._bytes(text, keep_newlines)))

    def split(self, text: str, keep_newlines: bool = False) -> list[str]:
        """The strings that :meth:`encode` sees one piece each in, unknown ones as they are written."""
        return list(map(str, self._processor.EncodeAsPieces(self._bytes(text, keep_newlines))))

    def unfamiliar(self, text: str) -> list[str]:
        """The words of a text that were hardly seen in training: spelled in bytes, or by less than two Latin
        letters a piece. None where the tokenizer is so small that it spells all words."""
        found = list[str]()
        if self.pieces < SPELLS_ALL:
            return found
        for word in re.findall(r"[^\W\d_]+", text):
            pieces = self.split(word)
            latin = all(ord(letter) < 0x250 for letter in word)
            if any(_BYTE.fullmatch(piece) for piece in pieces) or (latin and len(word) < 2 * len(pieces) > 4):
                found.append(word)
        return found

    def _bytes(self, text: str, keep_newlines: bool) -> bytes:
        if keep_newlines and self.newline is not None:
            text = text.replace("\n", self.newline)
        return _utf8(text)

    def decode(self, ids: ArrayLike) -> str:
        """The text of piece ids (n,); CogViewError for an id this tokenizer does not have."""
        pieces = np.asarray(ids, dtype=np.int64).ravel().tolist()
        self._check(pieces)
        text = str(self._processor.DecodeIds(pieces)) if pieces else ""
        return text if self.newline is None else text.replace(self.newline, "\n")

    def _check(self, ids: Iterable[int]) -> None:
        for piece_id in ids:
            if not 0 <= piece_id < self.pieces:
                raise CogViewError(f"piece {piece_id} is outside the text tokenizer's {self.pieces}")

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
        """Learn a tokenizer from ``texts``, one sentence each, or from the lines of a UTF-8 file.

        The same texts in the same order give the same bytes. Piece 0 is the unknown one; there are no tokens
        for start, end or padding, which are control tokens.

        Args:
            pieces: how many to learn, the 256 bytes of ``byte_fallback`` and ``user_defined`` included.
            byte_fallback: spell what is not covered in UTF-8 bytes, so that every text survives.
            character_coverage: share of the characters seen that get a piece of their own.
            normalization: SentencePiece's rule; all but ``identity`` make full-width forms plain (NFKC).
            user_defined: strings that always stay one piece.
            threads: of the trainer; the result may depend on their number.

        Raises CogViewError where the texts do not suffice for this many tokens or cannot be read.
        """
        if not 1 <= pieces <= MOST:
            raise CogViewError(f"text tokenizer of {pieces} pieces: take 1 to {MOST:,}", field="pieces")
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


def _reason(said: str) -> str:
    """What SentencePiece says, for people."""
    if most := re.search(r"value <= (\d+)", said):
        return f"the texts suffice for {most[1]} at most"
    if least := re.search(r"required_chars\. \d+ vs (\d+)", said):
        return f"their characters alone need {least[1]}"
    plain = re.sub(r"(?s)^.*\] |^INTERNAL: (\w+: )?|\n.*$", "", said).strip()
    return plain or "there are no texts to learn from"


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protocol-buffer field; appended to a message it extends a repeated field."""
    head, length = bytearray([number << 3 | 2]), len(content)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(head) + bytes([length]) + content


def split_fields(message: bytes) -> list[tuple[int, bytes]]:
    """A protocol-buffer message's fields in order: number and content, of length-delimited ones alone.

    CogViewError where there are others; a SentencePiece model has none.
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
    """The message of such fields."""
    return b"".join(_field(number, content) for number, content in fields)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends; IndexError where the message does before."""
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
        raise CogViewError(
            f"{text[:40]!r}: not valid Unicode, half of a surrogate pair stands alone"
        ) from error


def _lines(texts: Iterable[str] | Path) -> Iterator[bytes]:
    """The training texts in UTF-8, one a line."""
    if isinstance(texts, Path):
        try:
            with texts.open(encoding="utf-8") as file:
                yield from (_utf8(line.rstrip("\n")) for line in file)
        except (OSError, UnicodeDecodeError) as error:
            raise CogViewError(f"{texts}: not a readable UTF-8 text file") from error
    else:
        yield from (_utf8(" ".join(text.splitlines())) for text in texts)
