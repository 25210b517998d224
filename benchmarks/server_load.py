"""Many clients of a server that is killed now and then, by locust: is every image delivered, and how soon?

    pip install locust
    python benchmarks/server_load.py --out benchmarks/results/server_load.json
    python benchmarks/server_load.py --replicas 2 --out benchmarks/results/server_load_replicas.json
    python benchmarks/server_load.py --rehearse

The first is one ``cogview serve``, killed (SIGKILL) five times in ten minutes and started again, as systemd
or Kubernetes do; the second is Ray Serve's replicas, one of which is killed each time; ``--rehearse`` takes
20 seconds and 8 clients.

Each client asks for one image after the other, waits one to five seconds in between, does what
``Retry-After`` says when the queue is full, and asks again after a broken connection or a status of 500 or
more, as official clients do. *Seconds* are from the first try to the image. A request is lost where no image
came within ten minutes. Nobody is cut off at the end; the server then gets SIGTERM and has to exit with 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Protocol
from urllib.request import urlopen

PROMPTS = ("a red apple", "a blue bird", "a green tree", "a yellow star", "一只红色的猫", "一朵紫色的花")
PATH = "/v1/images/generations"
RECORD = "COGVIEW_LOAD_RECORD"  # the file in which the clients note what they ask and get
PATIENCE = 600.0  # seconds until a request counts as lost
REHEARSAL = {"clients": 8, "minutes": 1 / 3, "kills": 1, "queue": 4}


# ------------------------------------------------------------------------------------------ clients


def clients() -> type:
    """The client that locust runs many of."""
    from locust import HttpUser, between, task

    numbers, record = itertools.count(), Path(os.environ[RECORD]).open("a", buffering=1)  # noqa: SIM115

    def note(number: int, **told: Any) -> None:
        record.write(json.dumps({"number": number, **told}) + "\n")

    class Client(HttpUser):  # type: ignore[misc]
        wait_time = between(1, 5)

        @task  # type: ignore[misc]
        def image(self) -> None:
            """One image, however often it has to be asked for."""
            number, seed = next(numbers), random.getrandbits(31)
            asked = {"prompt": PROMPTS[seed % len(PROMPTS)], "quality": "low", "seed": seed}
            begun, tries = time.monotonic(), list[int]()
            note(number, asked=True)
            while time.monotonic() < begun + PATIENCE:
                answer = self.client.post(PATH, json=asked)
                tries.append(answer.status_code)  # 0: the connection broke
                if answer.status_code == 200:
                    [entry] = answer.json()["data"]
                    right = bool(entry["b64_json"]) and entry["seed"] == seed
                    took = time.monotonic() - begun
                    note(number, answered=True, right=right, seconds=round(took, 3), tries=tries)
                    return
                if 400 <= answer.status_code < 500 and answer.status_code != 429:
                    break
                time.sleep(int(answer.headers.get("Retry-After", 1)))
            note(number, given_up=True, tries=tries)

    return Client


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What became of the requests that the clients noted."""
    asked = {line["number"] for line in lines if "asked" in line}
    answers = [line for line in lines if "answered" in line]
    times = Counter(line["number"] for line in answers)
    tries = Counter(status for line in lines for status in line.get("tries", ()))
    seconds = sorted(line["seconds"] for line in answers)
    return {
        "asked": len(asked),
        "answered": len(times),
        "lost": len(asked - times.keys()),
        "answered twice": sum(count > 1 for count in times.values()),
        "wrong": sum(not line["right"] for line in answers),
        "answers by status (0: broken connection)": {str(key): tries[key] for key in sorted(tries)},
        "seconds": {
            name: round(quantile(seconds, share), 1)
            for name, share in (("median", 0.5), ("p95", 0.95), ("p99", 0.99), ("longest", 1.0))
        },
    }


def quantile(ordered: list[float], share: float) -> float:
    """The smallest value that ``share`` of all do not exceed; not a number where there is none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


# ------------------------------------------------------------------------------------------ servers


class Service(Protocol):
    """What the clients ask."""

    address: str

    def kill(self) -> None:
        """Kill a process that computes, without warning; it is started again."""

    def stop(self) -> dict[str, Any]:
        """Stop it; what there is to say of it."""


class OneServer:
    """``cogview serve``, started again when it is killed."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.log = args, folder / "serve.log"
        self.process, self.address = self._start(0)
        self.before = memory(self.process.pid)

    def _start(self, port: int) -> tuple[subprocess.Popen[bytes], str]:
        command = [sys.executable, "-m", "cogview.cli", "serve", self.args.model, "--port", str(port)]
        command += ["--queue", str(self.args.queue), "--together", str(self.args.together), "--threads", "1"]
        with self.log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while "Ctrl-C stops" not in self.log.read_text("utf-8"):
            if process.poll() is not None:
                sys.exit(self.log.read_text("utf-8"))
            time.sleep(0.2)
        return process, re.findall(r"http://[\d.:]+", self.log.read_text("utf-8"))[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process, self.address = self._start(int(self.address.rpartition(":")[2]))

    def stop(self) -> dict[str, Any]:
        with urlopen(f"{self.address}/metrics") as answer:
            text = answer.read().decode()
        batches = float(re.findall(r"cogview_batch_pictures_count (\S+)", text)[0])
        made = sum(float(number) for number in re.findall(r"cogview_pictures_total\{.*\} (\S+)", text))
        after = memory(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        return {
            "images a batch since the last kill": round(made / batches, 1) if batches else None,
            "megabytes": {"before": self.before, "after": after},
            "exit code after SIGTERM": self.process.wait(120),
        }


class RayReplicas:
    """Replicas of Ray Serve on this machine, each with an equal share of its cores."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        import ray
        from ray import serve

        from cogview.serving.replicas import Replicas, app

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init(include_dashboard=False, log_to_driver=False)
        cores = ray.cluster_resources()["CPU"]
        given = {"queue": args.queue, "together": args.together, "cpus": cores / args.replicas}
        serve.start(http_options={"host": "127.0.0.1", "port": args.port})
        serve.run(app(Replicas(models=(args.model,), replicas=args.replicas, **given)))
        self.address = f"http://127.0.0.1:{args.port}"

    def kill(self) -> None:
        import ray

        names = (str(one["name"]) for one in ray.util.list_named_actors(all_namespaces=True))
        name = next(name for name in names if name.startswith("SERVE_REPLICA") and "#cogview#" in name)
        ray.kill(ray.get_actor(name, "serve"), no_restart=True)  # Serve starts another in its place

    def stop(self) -> dict[str, Any]:
        import ray
        from ray import serve

        serve.shutdown()
        ray.shutdown()
        return {}


def memory(process: int) -> int | None:
    """Resident megabytes of a process; None where the system does not say (not Linux)."""
    try:
        text = Path(f"/proc/{process}/status").read_text("utf-8")
    except OSError:
        return None
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) >> 10


# ------------------------------------------------------------------------------------------ the run


def measured(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything of one run."""
    from cogview.checkpoints.bundle import ModelBundle

    service: Service = RayReplicas(args, folder) if args.replicas else OneServer(args, folder)
    seconds, record, killed = 60 * args.minutes, folder / "record.jsonl", list[float]()
    locust = [sys.executable, "-m", "locust", "-f", __file__, "--headless", "--host", service.address]
    locust += ["-u", str(args.clients), "-r", "20", "-t", f"{round(seconds)}s", "--stop-timeout", "900"]
    begun, over = time.monotonic(), threading.Event()

    def kill_now_and_then() -> None:
        for number in range(1, args.kills + 1):
            at = begun + number * seconds / (args.kills + 1)
            if over.wait(max(0.0, at - time.monotonic())):
                return
            killed.append(round(time.monotonic() - begun, 1))
            service.kill()

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(locust, cwd=folder, env={**os.environ, RECORD: str(record)}, check=False, **quiet)
    over.set()
    killer.join()
    told = summary([json.loads(line) for line in record.read_text("utf-8").splitlines()])
    return {
        "model": ModelBundle.find(args.model).hash,
        "clients": args.clients,
        "minutes": round(args.minutes, 2),
        "queue": args.queue,
        "replicas": args.replicas or 1,
        "killed at second": killed,
        **told,
        **service.stop(),
        "load average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--together", type=int, default=16)
    parser.add_argument("--model", default="pictogram")
    parser.add_argument("--replicas", type=int, default=0, help="of Ray Serve; 0: one server without Ray")
    parser.add_argument("--port", type=int, default=8000, help="of Ray Serve")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.rehearse:
        vars(args).update(REHEARSAL)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(args, Path(folder))
    text = json.dumps(found, indent=2)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
elif RECORD in os.environ:  # locust reads this file
    Client = clients()
