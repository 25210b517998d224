"""The one error a user is meant to see.

Everything that can be wrong with what a user hands over (a prompt, a recipe, a folder, a model directory) is
raised as :class:`CogViewError`. The command line prints its message as one line and ends with exit code 2.
"""


class CogViewError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and what to do.

    Attributes:
        exit_code: what the command line ends with.
    """

    exit_code: int = 2


class TrainingDiverged(CogViewError):
    """A training run whose loss or weights ran away; nothing bad has been exported."""

    exit_code = 3
