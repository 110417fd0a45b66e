"""Grids on a cluster, by Dask (``pip install 'lora_asymptotics[distributed]'``)."""

from __future__ import annotations

import contextlib
import functools
import os
import uuid
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from . import _native
from .errors import invalid, unreadable
from .schema import ScenarioLike, whole
from .solving import Grid, Progress, Sweep, reporter

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["sweep"]

#: Tasks that are submitted ahead of the first row that is missing: for every thread of the cluster, and at least.
_AHEAD_PER_THREAD, _AHEAD = 8, 64


def sweep(
    client: Client,
    scenario: ScenarioLike | None,
    axes: Mapping[str, ArrayLike],
    *,
    journal: str | os.PathLike[str] | None = None,
    rows_per_task: int = 1,
    retries: int = 3,
    progress: Progress = None,
    **fields: Any,
) -> Sweep:
    """Solves a grid on the workers of a Dask cluster: the same :class:`~lora_asymptotics.Sweep` as :func:`~lora_asymptotics.sweep`, byte for byte.

    A task is ``rows_per_task`` rows of the grid, which are the points along its last axis, each beginning with the solution of the one before;
    it takes one thread of a worker. A task that fails is tried again ``retries`` times, and the tasks of a worker that died are done by the
    others. Rows are collected in order, and those that come early are kept in memory.

    ``journal`` is a file to which every row is written as soon as it and all rows before it are known, one line of JSON per
    point. The same call with the same file continues after the last whole row; a last line that was cut is
    removed. It is the file of the command ``lora-asymptotics sweep``, and either continues what the other began. The file
    ``.description.json`` beside it says which grid it belongs to.

    Ctrl-C returns what is there, with ``interrupted`` set; workers then finish the task in hand. ``progress`` is that of
    :func:`~lora_asymptotics.solve_many`. The workers need this package, in the same version.

    >>> from distributed import Client, LocalCluster                                   # doctest: +SKIP
    >>> with LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster) as client:  # doctest: +SKIP
    ...     points = sweep(client, scenario, {"lora.alpha": [1, 2, 4], "lora.lambda": ridges}, journal="points.jsonl")

    Raises :class:`~lora_asymptotics.errors.InputError` with the field before anything is solved,
    :class:`~lora_asymptotics.errors.OtherJournal` if the file is that of another grid, ``OSError`` if it cannot be used,
    ``RuntimeError`` for workers of another version or a client that is closed meanwhile, ``distributed.KilledWorker`` if workers die again and
    again at the same task, and ``distributed.client.FutureCancelledError`` if the cluster is restarted meanwhile. Rows that came before are in the
    journal. Ctrl-C while the journal is read is ``KeyboardInterrupt``.
    """
    _check_client(client)
    rows_per_task, retries = whole(rows_per_task, "rows_per_task", 1, 2**31), whole(retries, "retries", 0, 2**31)
    grid = Grid(scenario, axes, fields, "a sweep on a cluster")
    with reporter(progress, grid.points) as report:
        records = _native.Records(*grid.encoded, _path(journal))
        length = len(list(grid.axes.values())[-1])
        rows = range(records.points // length, grid.points // length)
        interrupted = False
        try:
            with contextlib.closing(_solved(client, grid, rows, rows_per_task, retries)) as solved:
                for lines in solved:
                    records.add(lines)
                    if report is not None:
                        report(records.points)
        except KeyboardInterrupt:
            interrupted = True
        return grid.solved(records.take(), interrupted)


def _solved(client: Client, grid: Grid, rows: range, rows_per_task: int, retries: int) -> Generator[str, None, None]:
    """The lines of all tasks in their order, each as soon as it and those before it are known."""
    from distributed import Future, as_completed

    text, axes = grid.encoded
    name = f"lora-sweep-{uuid.uuid4().hex}"
    missing = iter(range(rows.start, rows.stop, rows_per_task))
    running: dict[str, tuple[int, Future[str]]] = {}
    early: dict[int, str] = {}
    due = rows.start
    answers = as_completed(loop=client.loop, with_results=True, raise_errors=True)

    def submit() -> None:
        if client.scheduler is None:
            raise RuntimeError("the client was closed during the sweep")
        ahead = max(_AHEAD, _AHEAD_PER_THREAD * sum(client.nthreads().values()))
        while len(running) + len(early) < ahead and (first := next(missing, None)) is not None:
            key = f"{name}-{first}"
            arguments = (_native.__version__, text, tuple(axes), first, rows_per_task)
            future = client.submit(_solve_rows, *arguments, key=key, pure=False, retries=retries)
            running[key] = first, future
            answers.add(future)

    try:
        submit()
        for future, lines in answers:
            first, _ = running.pop(future.key)
            # A task that was cancelled, by a restart of the cluster, has its exception in the place of its lines.
            if not isinstance(lines, str):
                raise lines
            early[first] = lines
            while due in early:
                yield early.pop(due)
                due += rows_per_task
            submit()
    finally:
        if running:
            # A client that is closed has nothing to cancel, and its exception would hide that which ended the sweep.
            with contextlib.suppress(Exception):
                client.cancel([future for _, future in running.values()])


def _solve_rows(version: str, text: str, axes: tuple[tuple[str, bytes], ...], first: int, count: int) -> str:
    """The records of some rows as lines of JSON. This runs on a worker."""
    if version != _native.__version__:
        raise RuntimeError(f"the client has lora_asymptotics {version}, and a worker {_native.__version__}")
    return _grid(text, axes).solve(first, count)


@functools.lru_cache(maxsize=4)
def _grid(text: str, axes: tuple[tuple[str, bytes], ...]) -> _native.Grid:
    """The grid of a task. The next task is mostly of the same one."""
    return _native.Grid(text, list(axes))


def _check_client(client: Any) -> None:
    try:
        from distributed import Client
    except ImportError:
        raise ImportError("this needs Dask: pip install 'lora_asymptotics[distributed]'") from None
    if not isinstance(client, Client):
        raise unreadable("client", client, "a distributed.Client")
    if client.asynchronous:
        raise invalid("client", client, "a client that is not asynchronous")


def _path(journal: Any) -> str | None:
    if journal is None:
        return None
    try:
        return os.fsdecode(journal)
    except TypeError:
        raise unreadable("journal", journal, "the path of a file") from None
