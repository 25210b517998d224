"""The number of compute threads: the cores that the container's limit and other programs leave free.

The threads of a matrix product wait for the slowest of them. One thread more than there are free cores makes
generation many times slower than a single thread, so a core counts as free only if it is nearly idle. This
module does not import PyTorch: the load of other programs is measured from the import of this module until
:func:`choose`, while PyTorch is being loaded.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "OMP_NUM_THREADS"
IDLE = 0.85  # fraction of a core that has to be free for a thread on it
WINDOW = 0.25  # minimum seconds of measuring the load
MOST = 8  # threads; a small model gains from no more
LARGE = 1 << 30  # bytes of weights; a model this large gains from every core
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Choice:
    """A number of threads, and the reason for it."""

    threads: int
    reason: str


@dataclass(frozen=True)
class Usage:
    """CPU seconds used until a time: by all programs on this process's cores, by its control group, and by
    the process itself. None if the system does not report it."""

    time: float
    cores: float | None
    group: float | None
    process: float

    @classmethod
    def now(cls) -> Usage:
        """The usage until now."""
        times = os.times()
        return cls(time.monotonic(), _busy(cores()), _group_usage(), times.user + times.system)

    def others(self, since: Usage, group: bool) -> float | None:
        """The number of cores that other programs kept busy since then, on this process's cores or in its
        control group."""
        first, last = (since.group, self.group) if group else (since.cores, self.cores)
        if first is None or last is None or self.time <= since.time:
            return None
        process = self.process - since.process
        return max(0.0, last - first - process) / (self.time - since.time)


def cores() -> frozenset[int]:
    """The cores that this process may run on (its affinity mask)."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _busy(allowed: frozenset[int], file: Path = Path("/proc/stat")) -> float | None:
    """Seconds that the cores ``allowed`` have been busy since boot."""
    try:
        lines = [line.split() for line in file.read_text("ascii").splitlines()]
        tick = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
    rows = {f"cpu{number}" for number in allowed}
    times = [[int(part) for part in row[1:9]] for row in lines if row and row[0] in rows]
    if not times:
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal
    return sum(sum(row) - sum(row[3:5]) for row in times) / tick


def _groups() -> list[Path]:
    """The directories of this process's CPU control groups (version 1 or 2), innermost first."""
    try:
        lines = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names = [name for name in controllers.split(",") if name in ("cpu", "cpuacct")]
        roots = [CGROUP / name for name in names] if controllers else [CGROUP]
        for root in roots:
            group = root / path.strip("/")
            groups += [group, *(parent for parent in group.parents if root in (parent, *parent.parents))]
    return groups


def quota(groups: list[Path] | None = None) -> float | None:
    """The container's CPU limit in cores, or None if there is no limit."""
    limits = []
    for group in _groups() if groups is None else groups:
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            try:
                most, period = " ".join((group / name).read_text("ascii") for name in names).split()
                limits.append(int(most) / int(period))
            except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
                continue
    return min((limit for limit in limits if limit > 0), default=None)


def _group_usage() -> float | None:
    """CPU seconds that this process's control group has used."""
    for group in _groups():
        try:
            fields = dict(line.split() for line in (group / "cpu.stat").read_text("ascii").splitlines())
            return int(fields["usage_usec"]) / 1e6
        except (OSError, ValueError, KeyError):
            pass
        try:
            return int((group / "cpuacct.usage").read_text("ascii")) / 1e9
        except (OSError, ValueError):
            pass
    return None


_STARTED = Usage.now()


def choose(weights: int = 0) -> Choice:
    """The number of threads for a model of ``weights`` bytes at the current load; see :func:`fitting`.

    ``OMP_NUM_THREADS`` takes precedence if it is set.
    """
    setting = os.environ.get(VARIABLE, "")
    if setting.isdecimal() and int(setting):
        return Choice(int(setting), f"{VARIABLE} is set")
    time.sleep(max(0.0, _STARTED.time + WINDOW - time.monotonic()))
    now, limit = Usage.now(), quota()
    used = now.others(_STARTED, group=False)
    used_of_limit = now.others(_STARTED, group=True) if limit is not None else None
    return fitting(len(cores()), used, limit, used_of_limit, MOST if weights < LARGE else None)


def fitting(
    count: int,
    used: float | None = None,
    limit: float | None = None,
    used_of_limit: float | None = None,
    most: int | None = None,
) -> Choice:
    """The number of threads, from 1 to ``most``, for ``count`` cores.

    used: cores that other programs keep busy; limit: cores that the container may use; used_of_limit: cores
    that other programs in the container use.
    """
    free, facts = count - (used or 0.0), [f"{count} core{'s' if count > 1 else ''}"]
    if limit is not None:
        facts.append(f"{limit:.1f} of them allowed to this container")
        free = min(free, limit - (used_of_limit or 0.0))
    busy = max(used or 0.0, used_of_limit or 0.0)
    facts.append("load unknown" if used is None else f"{busy:.1f} in use by other programs")
    threads = max(1, math.floor(free + 1 - IDLE))
    if most is not None and threads > most:
        threads = most
        facts.append(f"more than {most} do not speed up a model of this size")
    return Choice(threads, ", ".join(facts))
