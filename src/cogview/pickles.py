"""A safe reader for pickles of plain arrays.

Old data sets and weight files are pickles. Their opcodes are scanned before anything is built: only those
that build numbers, strings, tuples, lists, dictionaries and NumPy arrays are allowed, a limited number of
them, and no memo index beyond that number (C's unpickler would allocate memory up to it). Arrays are built by
functions of this module, which compare their size with the bytes in the pickle.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cogview.errors import CogViewError

MAX_OPCODES = 1 << 20
OPCODES = frozenset(
    """
    PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST
    APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD
    """.split()  # noqa: SIM905
)
_DTYPE = re.compile(r"[<>|=]?([biuf][1248]|f16|b)")


class _Array(np.ndarray[Any, Any]):
    """An array that compares its pickled state with its size before using it."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _Type) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array of something other than numbers")
        if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
            raise pickle.UnpicklingError("an array without a shape")
        if math.prod(shape) * kind.dtype.itemsize != len(data):
            raise pickle.UnpicklingError("an array's shape and bytes do not fit")
        super().__setstate__((1, shape, kind.dtype, bool(fortran), data))  # type: ignore[arg-type]


class _Type:
    """A pickled dtype of plain numbers, in either byte order."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not _DTYPE.fullmatch(text):
            raise pickle.UnpicklingError("an array of something other than numbers")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 8 or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("an array of something other than numbers")
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("numbers of an unknown byte order")
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


class _Named:
    """A stand-in for ``numpy.ndarray``, which a pickle only names."""


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    """An empty array, to be filled by the pickle's state."""
    if kind is not _Named or shape != (0,):
        raise pickle.UnpicklingError("something other than a plain array")
    return np.ndarray.__new__(_Array, (0,), np.dtype(np.int8))


def _frombuffer(data: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    """An array as protocol 5 writes it."""
    if not isinstance(data, bytes | bytearray) or not isinstance(kind, _Type) or order not in ("C", "F"):
        raise pickle.UnpicklingError("something other than a plain array")
    return np.frombuffer(data, kind.dtype).reshape(shape, order=order)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes as Python 3 writes them for Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("something other than bytes")
    return text.encode("latin-1")


NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Named,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise pickle.UnpicklingError(f"it uses {module}.{name:.100}")
        return NAMES[module, name]


def scan(data: IO[bytes], opcodes: frozenset[str] | None = None) -> None:
    """Scan one pickle and leave the stream behind it, without building anything.

    opcodes: the allowed opcodes, None for all. Raises UnpicklingError for any other, for too many, for a memo
    index far beyond their number, and for ``bytearray``, which allocates as much as a number says.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data), 1):
        if opcodes is not None and opcode.name not in opcodes:
            raise pickle.UnpicklingError(f"the opcode {opcode.name}")
        if isinstance(argument, str) and argument.rpartition(" ")[2] == "bytearray":
            raise pickle.UnpicklingError("it uses a bytearray")
        if count > MAX_OPCODES:
            raise pickle.UnpicklingError(f"over {MAX_OPCODES:,} opcodes")
        if opcode.name.endswith("PUT") and not 0 <= int(argument or 0) <= MAX_OPCODES:
            raise pickle.UnpicklingError(f"a memo of {argument} entries")


def load(data: bytes, where: str) -> Any:
    """Load a pickle of numbers, strings, tuples, lists, dictionaries and arrays of numbers.

    Python 2 strings are read as Latin-1. Raises a CogViewError with ``where`` for anything else.
    """
    try:
        scan(io.BytesIO(data), OPCODES)
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = (str(error).splitlines() or ["damaged"])[0]
        raise CogViewError(
            f"{where}: not a pickle of plain arrays ({reason:.200}); it is not read"
        ) from error
