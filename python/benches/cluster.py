"""What a sweep on a cluster of Dask costs beside the arithmetic: per task, and per point for the client.

    python python/benches/cluster.py [--workers 2]

Times are those of the processor, which other work on the machine changes little. The cluster is local, so that the scheduler is in the process
of the client, and no network adds its latency. Rows of one point that is solved in microseconds give the cost of a task; the
client alone, which reads records, writes the journal and fills the table, gives that of a point; a phase diagram of fine-tuning gives the
share of all that is arithmetic.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, LocalCluster

import lora_asymptotics as la
from lora_asymptotics import _native
from lora_asymptotics.solving import Grid

LAYER = {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}}
LINEAR: dict[str, Any] = {"model": LAYER, "pretrain": {"alpha": 0.2, "lambda": 0.1}}
SOFTMAX: dict[str, Any] = {
    "model": {"tokens": 2, "activation": "softmax", "delta": 0.5},
    "frozen": {"q0": 2.0, "q": 1.2, "m": 1.1},
    "lora": {"alpha": 8.0, "lambda": 0.5},
}
#: A phase diagram of fine-tuning: data upwards, and the ridge along rows, from large to small.
DIAGRAM = {"lora.alpha": np.geomspace(6.0, 30.0, 8), "lora.lambda": np.geomspace(1.0, 0.3, 10)}


class Spent:
    """Time of the processor that this process, and the workers, spend in a block."""

    def __init__(self, client: Client | None = None) -> None:
        self._client = client

    def _now(self) -> tuple[float, float]:
        workers = self._client.run(time.process_time).values() if self._client else ()
        return time.process_time(), sum(workers)

    def __enter__(self) -> Spent:
        self._begun = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        here, workers = self._now()
        self.here, self.workers = here - self._begun[0], workers - self._begun[1]


def client_alone(folder: Path) -> None:
    for name, scenario, field, points in (
        ("pre-training", LINEAR, "pretrain.lambda", 2000),
        ("fine-tuning", SOFTMAX, "lora.lambda", 20),
    ):
        grid = Grid(scenario, {field: np.geomspace(1.0, 0.3, points)}, {}, "a bench")
        lines = _native.Grid(*grid.encoded).solve(0, 1)
        path = folder / f"{name}.jsonl"
        records = _native.Records(*grid.encoded, str(path))
        with Spent() as spent:
            records.add(lines)
        print(f"client, {name}: {spent.here / points * 1e6:.0f} us and {path.stat().st_size / points:.0f} bytes per point")


def continued(folder: Path, points: int = 200_000) -> None:
    """Reads a journal again, as a sweep does that continues it."""
    grid = Grid(LINEAR, {"pretrain.lambda": np.geomspace(1.0, 0.3, points)}, {}, "a bench")
    path = folder / "continued.jsonl"
    _native.Records(*grid.encoded, str(path)).add(_native.Grid(*grid.encoded).solve(0, 1))
    # A new process reads, whose peak is that of reading.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, peak = pool.apply(_read, (grid.encoded, str(path)))
    print(f"a journal of {points} points and {path.stat().st_size / 1e6:.0f} MB is read in {seconds:.1f} s, with {peak:.0f} MB of memory at the peak")


def _read(encoded: Any, path: str) -> tuple[float, float]:
    with Spent() as spent:
        _native.Records(*encoded, path)
    # Linux counts in kilobytes.
    return spent.here, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def tasks(client: Client) -> None:
    axes = {"pretrain.alpha": np.linspace(0.2, 0.4, 2000), "pretrain.lambda": [0.1]}
    for rows_per_task in (1, 100):
        with Spent(client) as spent:
            la.distributed.sweep(client, LINEAR, axes, rows_per_task=rows_per_task)
        count = 2000 // rows_per_task
        each = f"client and scheduler {spent.here / count * 1e3:.2f} ms, worker {spent.workers / count * 1e3:.2f} ms"
        print(f"{count} tasks of {rows_per_task} rows of one point, each: {each}")


def diagram(client: Client, folder: Path) -> None:
    with Spent() as alone:
        here = la.sweep(SOFTMAX, DIAGRAM)
    with Spent(client) as spent:
        there = la.distributed.sweep(client, SOFTMAX, DIAGRAM, journal=folder / "diagram.jsonl")
    assert all(np.array_equal(here[name], there[name], equal_nan=here[name].dtype == float) for name in here)
    points = here.points
    print(f"{points} points of fine-tuning, softmax: {alone.here / points * 1e3:.0f} ms per point in one process")
    each = f"workers {spent.workers / points * 1e3:.0f} ms, client and scheduler {spent.here / points * 1e3:.1f} ms per point"
    print(f"the same on the cluster: {each}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    workers = parser.parse_args().workers
    local = {"host": "127.0.0.1", "dashboard_address": None, "threads_per_worker": 1, "processes": True}
    with tempfile.TemporaryDirectory() as name, LocalCluster(n_workers=workers, **local) as cluster, Client(cluster) as client:
        folder = Path(name)
        client_alone(folder)
        continued(folder)
        tasks(client)
        diagram(client, folder)


if __name__ == "__main__":
    main()
