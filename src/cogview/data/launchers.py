"""Which of how many processes this is, as launchers tell it in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),  # torchrun
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # srun; a batch script without it has no step's number of tasks
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # mpirun
)


def rank_here(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """(rank, ranks) from torchrun's, Slurm's (steps and arrays) or Open MPI's variables; (0, 1) without."""
    found = os.environ if environment is None else environment
    for rank, ranks in LAUNCHERS:
        if found.get(rank, "").isdecimal() and found.get(ranks, "").isdecimal():
            return int(found[rank]), int(found[ranks])
    task, tasks = found.get("SLURM_ARRAY_TASK_ID", ""), found.get("SLURM_ARRAY_TASK_COUNT", "")
    if task.isdecimal() and tasks.isdecimal():
        return int(task) - int(found.get("SLURM_ARRAY_TASK_MIN") or 0), int(tasks)
    return 0, 1
