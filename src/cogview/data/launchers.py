"""Reads rank and world size from the environment variables of launchers."""

from __future__ import annotations

import os
from collections.abc import Mapping

LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),  # torchrun
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # srun; the second is not set in a batch script without srun
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # mpirun
)


def rank_here(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """(rank, ranks) from torchrun's, Slurm's (steps and arrays) or Open MPI's variables; (0, 1) without."""
    variables = os.environ if environment is None else environment
    for rank, ranks in LAUNCHERS:
        if variables.get(rank, "").isdecimal() and variables.get(ranks, "").isdecimal():
            return int(variables[rank]), int(variables[ranks])
    task, tasks = variables.get("SLURM_ARRAY_TASK_ID", ""), variables.get("SLURM_ARRAY_TASK_COUNT", "")
    if task.isdecimal() and tasks.isdecimal():
        return int(task) - int(variables.get("SLURM_ARRAY_TASK_MIN") or 0), int(tasks)
    return 0, 1
