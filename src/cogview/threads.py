"""How many threads to compute with: what the container's share and other programs leave of the cores.

The threads of a matrix product wait for the slowest of them. One thread more than there are free cores makes
generation many times slower than a single thread, so a core counts only where it is nearly idle. Nothing here
imports PyTorch: what other programs use is measured from the import of this module until :func:`choose`,
while PyTorch is being loaded.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "OMP_NUM_THREADS"
IDLE = 0.85  # share of a core that has to be free for a thread on it
WINDOW = 0.25  # seconds that the use of the cores is measured for, at least
MOST = 8  # threads that small models gain from
LARGE = 1 << 30  # bytes of weights from which a model gains from every core
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Choice:
    """A number of threads, and why this number."""

    threads: int
    reason: str


@dataclass(frozen=True)
class Usage:
    """Processor seconds used up to a moment: by all programs on this process's cores, by its control group,
    and by the process itself. None where the system does not tell."""

    moment: float
    cores: float | None
    group: float | None
    own: float

    @classmethod
    def now(cls) -> Usage:
        """The usage up to now."""
        spent = os.times()
        return cls(time.monotonic(), _busy(cores()), _group_usage(), spent.user + spent.system)

    def others(self, since: Usage, group: bool) -> float | None:
        """Cores that other programs kept busy between two moments, on this process's cores or in its control
        group."""
        first, last = (since.group, self.group) if group else (since.cores, self.cores)
        if first is None or last is None or self.moment <= since.moment:
            return None
        own = self.own - since.own
        return max(0.0, last - first - own) / (self.moment - since.moment)


def cores() -> frozenset[int]:
    """The numbers of the cores that this process may run on (its affinity mask)."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _busy(allowed: frozenset[int], file: Path = Path("/proc/stat")) -> float | None:
    """Seconds that the cores ``allowed`` have been busy since the machine started."""
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
    """The directories of this process's CPU control groups (version 1 or 2), the innermost first."""
    try:
        lines = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, inside = line.split(":", 2)
        ours = [name for name in controllers.split(",") if name in ("cpu", "cpuacct")]
        roots = [CGROUP / name for name in ours] if controllers else [CGROUP]
        for root in roots:
            place = root / inside.strip("/")
            found += [place, *(above for above in place.parents if root in (above, *above.parents))]
    return found


def quota(groups: list[Path] | None = None) -> float | None:
    """The cores that the container's limit amounts to, None where there is no limit."""
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
    """Processor seconds that this process's control group has used."""
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
    """The threads that fit this moment, for a model of ``weights`` bytes; see :func:`fitting`.

    ``OMP_NUM_THREADS`` holds where it is set.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked.isdecimal() and int(asked):
        return Choice(int(asked), f"{VARIABLE} is set")
    time.sleep(max(0.0, _STARTED.moment + WINDOW - time.monotonic()))
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
    """The threads for ``count`` cores of which other programs keep ``used`` busy: from 1 to ``most``.

    limit: cores that the container may use, and ``used_of_limit`` what other programs in it use.
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
