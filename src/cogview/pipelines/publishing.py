"""``save_pretrained`` and ``push_to_hub`` of every pipeline (:mod:`cogview.checkpoints.hub`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cogview.checkpoints import hub
from cogview.checkpoints.bundle import ModelBundle


class HubMixin:
    """Publishing methods for a class with a ``bundle``."""

    @property
    def bundle(self) -> ModelBundle:
        """The family."""
        raise NotImplementedError

    def save_pretrained(self, directory: str | Path, **metadata: Any) -> Path:
        """Write the family to a directory, as :meth:`push_to_hub` uploads it: its files, ``README.md`` and
        ``SHA256SUMS``.

        ``metadata`` are entries of the model card, such as ``license="apache-2.0"`` or ``base_model="a/b"``.
        Raises CogViewError if ``directory`` holds anything but a family.
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
        """Upload the family to ``organisation/name`` on the hub at ``HF_ENDPOINT``; returns the commit's URL.

        Args:
            branch: default: the main branch.
            token: default: the one stored by the hub's client.
            metadata: entries of the model card, such as ``license="apache-2.0"``.

        Raises:
            CogViewError: the extra ``hub`` is not installed, the hub cannot be reached, or it rejects the
                upload.
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
