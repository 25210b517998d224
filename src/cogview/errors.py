"""The errors shown to users.

Every error in a user's input (a prompt, a recipe, a folder, a model directory) is raised as a
:class:`CogViewError`. The command line prints its message as one line and exits with its exit code; the
server responds with its ``code`` and ``field``.
"""

from __future__ import annotations

from collections.abc import Sequence


class CogViewError(ValueError):
    """Invalid input. The message is one line: what is wrong, where, and what to do.

    Attributes:
        exit_code: exit code of the command line.
        code: kind of error, as the server reports it; None if there is only a message.
        field: name of the wrong argument, if known.
        hint: what to do; the last part of the message.
    """

    exit_code: int = 2

    def __init__(
        self, message: str = "", *, code: str | None = None, field: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.code, self.field, self.hint = code, field, hint


class UnsupportedTask(CogViewError):
    """A task that this model does not support; ``families`` are the installed families that support it."""

    def __init__(self, message: str, task: str = "", families: Sequence[str] = ()) -> None:
        hint = f"take --model {' or '.join(families)}" if families else None
        super().__init__(message, code="unsupported", field="model", hint=hint)
        self.task, self.families = task, tuple(families)


class OutOfMemory(CogViewError):
    """Memory did not suffice even for a batch of one image."""

    def __init__(self, message: str = "", hint: str | None = None) -> None:
        super().__init__(message, code="out_of_memory", hint=hint)


class TrainingDiverged(CogViewError):
    """The loss or the weights of a training run diverged; no diverged model has been exported."""

    exit_code = 3


def ran_out(error: BaseException) -> bool:
    """Whether ``error`` means out of memory: on a GPU, in PyTorch's CPU allocator or in Python's."""
    phrases = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
    matches = isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in phrases)
    return matches or isinstance(error, MemoryError)
