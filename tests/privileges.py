"""Python as a user whom file permissions hold, also where the tests run as root."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


def _drop() -> None:
    """In the child, before it becomes Python: give up what lets root pass permissions by."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "this root cannot give up its privileges")


def unprivileged(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """``python ARGUMENTS`` without root's way around permissions, its output as text."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=_drop if os.geteuid() == 0 else None,
    )
