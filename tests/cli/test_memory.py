"""Too little memory is one line, wherever it runs out."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited there")
@pytest.mark.parametrize("megabytes", [150, 400, 600])
def test_generate_without_memory_is_one_line(megabytes: int, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    command = [sys.executable, "-m", "cogview.cli", "generate", "a red circle", "-o", str(tmp_path)]
    done = subprocess.run(
        command, preexec_fn=limit, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: out of memory") and done.stderr.count("\n") == 1
