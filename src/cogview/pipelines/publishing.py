"""``save_pretrained`` and ``push_to_hub`` of every pipeline (:mod:`cogview.checkpoints.hub`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cogview.checkpoints import hub
from cogview.checkpoints.bundle import ModelBundle


class HubMixin:
    """For a class with a ``bundle``."""

    @property
    def bundle(self) -> ModelBundle:
        """The family."""
        raise NotImplementedError

    def save_pretrained(self, directory: str | Path, **metadata: Any) -> Path:
        """Write the family as :meth:`push_to_hub` pushes it: its files, ``README.md``, ``SHA256SUMS``.

        ``metadata`` are entries of the card, such as ``license="apache-2.0"`` or ``base_model="a/b"``.
        CogViewError where ``directory`` holds something else than a family.
        """
        return hub.save(self.bundle, directory, metadata).directory

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        branch: str | None = None,
        message: str | None = None,
        token: str | None = None,
        **metadata: Any,
    ) -> str:
        """Push the family to ``organisation/name`` on the hub of ``HF_ENDPOINT``; the address of the commit.

        Args:
            branch: default: the main one.
            token: default: the one that the hub's own client is logged in with.
            metadata: entries of the card, such as ``license="apache-2.0"``.

        Raises:
            CogViewError: the extra ``hub`` is missing, nobody answers, or the hub refuses.
        """
        return hub.push(
            self.bundle,
            repository,
            private=private,
            branch=branch,
            message=message,
            token=token,
            metadata=metadata,
        )
