"""Work on many machines with Ray: an extra (``pip install "cogview[ray]"``), imported only when it is used.

Ray (https://docs.ray.io) places workers on the machines of a cluster, and when one dies, starts another and
runs its part of the work again. A part may therefore run more than once, so it has to write its result
atomically: a file or a directory under a temporary name that is then renamed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from cogview.config import Config, option
from cogview.errors import CogViewError

Part = TypeVar("Part")
Result = TypeVar("Result")
Run = Callable[[Part], Result]

LOCAL = "local"
RETRIES = 20  # of a part whose worker died; a part that always kills its worker must not run for ever
OBJECTS = 100 << 20  # bytes of shared memory; parts and results are small


class Cluster(Config):
    """The Ray cluster to spread work over, if any."""

    ray: str | None = option(
        None,
        "Spread the work over a Ray cluster: local, auto or HOST:PORT. A second run resumes the work.",
        metavar="ADDRESS",
    )
    ray_workers: int | None = option(None, "Workers at a time.", shown="one a GPU, or one a core", ge=1)

    def check(self) -> None:
        """Raise CogViewError if there is a number of workers but no cluster."""
        if self.ray_workers is not None and self.ray is None:
            raise CogViewError("--ray-workers: give --ray, too", field="ray_workers")

    def results(self, make: Callable[[], Run[Part, Result]], parts: Sequence[Part]) -> Iterator[Result]:
        """:func:`spread` on this cluster."""
        assert self.ray is not None
        with connected(self.ray, self.ray_workers) as ray:
            yield from spread(ray, make, parts, self.ray_workers)


@contextmanager
def connected(address: str = LOCAL, workers: int | None = None) -> Iterator[Any]:
    """The module ``ray``, connected to a cluster until the end of the block.

    If this process is already connected, that connection is used and kept.

    Args:
        address: ``local`` starts a cluster on this machine for the duration of the block; ``auto`` connects
            to the cluster this machine belongs to; ``HOST:PORT`` or ``ray://HOST:PORT`` to a remote one.
        workers: how many workers a local cluster has room for; None: one per core.

    Raises:
        CogViewError: Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError:
        raise CogViewError('Ray is not installed; run pip install "cogview[ray]"') from None
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    os.environ.setdefault("RAY_worker_niceness", "0")  # the default is 15: lowest priority on a busy machine
    local = {"num_cpus": workers, "object_store_memory": OBJECTS, "include_dashboard": False}
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address=address, **quiet, **(local if address == LOCAL else {}))
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise CogViewError(
            f"--ray {address}: no Ray cluster answers there ({str(error).splitlines()[0]}); start one with "
            f"`ray start --head`, or give {LOCAL}",
            field="ray",
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def spread(
    ray: Any, make: Callable[[], Run[Part, Result]], parts: Sequence[Part], workers: int | None = None
) -> Iterator[Result]:
    """Run all parts and yield their results in the order of completion.

    Args:
        ray: as from :func:`connected`.
        make: called once in each worker, returns the function that is called with each part. Pickled.
        workers: how many run at a time; None: one for each GPU of the cluster, or for each core.

    Raises:
        CogViewError: raised by a worker, or because a part killed its worker repeatedly.
    """
    from ray.util import ActorPool

    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    count = min(len(parts), workers or gpus or int(resources.get("CPU", 1)))
    kind = ray.remote(num_cpus=1, num_gpus=min(1, gpus), max_restarts=-1, max_task_retries=RETRIES)(Worker)
    pool = ActorPool([kind.remote(make, Path.cwd()) for _ in range(count)])
    try:
        yield from pool.map_unordered(lambda worker, part: worker.run.remote(part), parts)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, CogViewError):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        raise CogViewError(
            f"a part of the work killed its worker {RETRIES + 1} times ({error.__class__.__name__}); is "
            "there enough memory for a model in each worker?"
        ) from error


class Worker(Generic[Part, Result]):
    """A Ray actor. It works in the directory of the calling process, so that relative paths are the same."""

    def __init__(self, make: Callable[[], Run[Part, Result]], directory: Path) -> None:
        os.chdir(directory)
        self._make = make
        self._run: Run[Part, Result] | None = None

    def run(self, part: Part) -> Result:
        """The result of one part; the first call builds the function."""
        if self._run is None:
            self._run = self._make()
        return self._run(part)
