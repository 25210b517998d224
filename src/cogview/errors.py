"""The errors a user is meant to see.

Everything that can be wrong with what a user hands over (a prompt, a recipe, a folder, a model directory) is
raised as :class:`CogViewError`. The command line prints its message as one line and ends with its exit code;
the server answers with its ``code`` and ``field``.
"""

from __future__ import annotations

from collections.abc import Sequence


class CogViewError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and what to do.

    Attributes:
        exit_code: of the command line.
        code: kind of error, as the server reports it; None where there is only the message.
        field: name of the argument that is wrong, if one is known.
        hint: what to do, as the last part of the message.
    """

    exit_code: int = 2

    def __init__(
        self, message: str = "", *, code: str | None = None, field: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.code, self.field, self.hint = code, field, hint


class UnsupportedTask(CogViewError):
    """A task that this model does not have; ``families`` are the installed ones that have it."""

    def __init__(self, message: str, task: str = "", families: Sequence[str] = ()) -> None:
        hint = f"take --model {' or '.join(families)}" if families else None
        super().__init__(message, code="unsupported", field="model", hint=hint)
        self.task, self.families = task, tuple(families)


class OutOfMemory(CogViewError):
    """Memory did not suffice even for one image at a time."""

    def __init__(self, message: str = "", hint: str | None = None) -> None:
        super().__init__(message, code="out_of_memory", hint=hint)


class TrainingDiverged(CogViewError):
    """A training run whose loss or weights ran away; nothing bad has been exported."""

    exit_code = 3


def ran_out(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on a GPU, in PyTorch's or in Python's own allocator."""
    signs = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
    said = isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)
    return said or isinstance(error, MemoryError)
