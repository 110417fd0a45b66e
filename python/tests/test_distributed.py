"""Grids on a cluster of Dask, of which a worker is killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from distributed.client import FutureCancelledError

import lora_asymptotics as la
from lora_asymptotics import _native, errors
from lora_asymptotics.solving import Grid

AXES = {"model.delta": np.linspace(0.1, 1.0, 12), "lora.lambda": np.geomspace(0.1, 1.0, 5)}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A client of two worker processes with a thread each."""
    local = {"host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **local) as cluster, Client(cluster) as client:
        yield client


def assert_same(one: la.Sweep, other: la.Sweep) -> None:
    """Both have the same columns in the same order, with the same bytes."""
    assert list(one) == list(other) and one.errors == other.errors and one.shape == other.shape
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        if one[name].dtype == object:
            assert one[name].tolist() == other[name].tolist(), name
        else:
            assert one[name].tobytes() == other[name].tobytes(), name


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_worker_is_killed_and_the_result_is_the_same(
    client: Client, finetuning: dict[str, Any], tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        """Kills a worker that is busy with a task, after the first rows."""
        busy = [address for address, tasks in client.processing().items() if tasks]
        if not killed and busy and done < total:
            pids = client.run(os.getpid)
            killed.append(pids[busy[0]])
            os.kill(killed[0], signal.SIGKILL)

    found = la.distributed.sweep(client, finetuning, AXES, journal=tmp_path / "killed.jsonl", progress=kill)
    assert killed and killed[0] not in client.run(os.getpid).values()
    assert found.points == 60 and not found.interrupted
    assert_same(found, la.sweep(finetuning, AXES))
    la.distributed.sweep(client, finetuning, AXES, journal=tmp_path / "whole.jsonl", rows_per_task=5)
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_journal_is_continued_after_its_last_whole_row(
    client: Client, finetuning: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "points.jsonl"
    whole = la.distributed.sweep(client, finetuning, AXES, journal=path)
    written = path.read_bytes()
    lines = written.splitlines(keepends=True)
    told: list[int] = []
    # Three whole rows, two points of the fourth, and half a line.
    path.write_bytes(b"".join(lines[:17]) + lines[17][:100])
    again = la.distributed.sweep(
        client, finetuning, AXES, journal=str(path), progress=lambda done, total: told.append(done)
    )
    assert_same(again, whole)
    assert path.read_bytes() == written and told == list(range(20, 61, 5))
    # What is complete needs no worker.
    assert_same(la.distributed.sweep(client, finetuning, AXES, journal=path), whole)


def test_other_threads_run_while_a_journal_is_read(
    linear: dict[str, Any], tmp_path: Path, beside_another_thread: Callable[..., Any]
) -> None:
    grid = Grid(linear, {"pretrain.lambda": np.geomspace(1.0, 0.3, 20_000)}, {}, "a test")
    path = str(tmp_path / "points.jsonl")
    _native.Records(*grid.encoded, path).add(_native.Grid(*grid.encoded).solve(0, 1))
    records, seconds, silence = beside_another_thread(lambda: _native.Records(*grid.encoded, path))
    assert records.points == 20_000 and silence < 0.5 * seconds


def test_a_journal_is_that_of_the_program(client: Client, finetuning: dict[str, Any], tmp_path: Path) -> None:
    program = shutil.which("lora-asymptotics")
    if program is None:
        pytest.skip("not without the program lora-asymptotics")
    axes = [{"field": name, "values": values.tolist()} for name, values in AXES.items()]
    grid, path, other = tmp_path / "grid.json", tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    grid.write_text(json.dumps({"scenario": finetuning, "axes": axes}), encoding="utf-8")
    command = [program, "sweep", str(grid), "--out"]
    subprocess.run([*command, str(path)], check=True, capture_output=True)
    la.distributed.sweep(client, finetuning, AXES, journal=other)
    assert path.read_bytes() == other.read_bytes()
    other.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:12]))
    subprocess.run([*command, str(other)], check=True, capture_output=True)
    assert path.read_bytes() == other.read_bytes()


def test_points_that_cannot_be_solved_have_their_errors(client: Client, linear: dict[str, Any]) -> None:
    axes = {"pretrain.lambda": [0.05, 0.1], "pretrain.kappa": [0.01, 1.0]}
    found = la.distributed.sweep(client, linear, axes)
    assert list(found.errors) == [0, 2]
    assert_same(found, la.sweep(linear, axes))


def test_invalid_input_is_refused_before_anything_is_submitted(
    client: Client, linear: dict[str, Any], tmp_path: Path
) -> None:
    axes = {"pretrain.lambda": [0.05, 0.1]}
    for change, field in (
        ({"rows_per_task": 0}, "rows_per_task"),
        ({"retries": -1}, "retries"),
        ({"retries": 2.5}, "retries"),
        ({"journal": 3}, "journal"),
        ({"pretrain": {"alpha": -1, "lambda": 0.1}}, "pretrain.alpha"),
    ):
        with pytest.raises(errors.InputError) as caught:
            la.distributed.sweep(client, linear, axes, **change)
        assert caught.value.field == field
    with pytest.raises(errors.InputError, match="client"):
        la.distributed.sweep("tcp://127.0.0.1:8786", linear, axes)  # type: ignore[arg-type]
    path = tmp_path / "points.jsonl"
    la.distributed.sweep(client, linear, axes, journal=path)
    before = path.read_bytes()
    with pytest.raises(errors.OtherJournal) as other:
        la.distributed.sweep(client, linear, {"pretrain.lambda": [0.05, 0.2]}, journal=path)
    assert other.value.field == "journal" and other.value.kind == "journal" and path.read_bytes() == before
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        la.distributed.sweep(client, linear, axes, journal=tmp_path)


def test_tasks_that_fail_are_tried_again(
    client: Client, linear: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = {"pretrain.alpha": [0.2, 0.3], "pretrain.lambda": [0.05, 0.1]}
    solve = la.distributed._solve_rows
    failed = str(tmp_path)

    def fails_twice(*task: Any) -> str:
        """Fails at the first two trials of a task, which it counts in a file."""
        tried = os.path.join(failed, f"row{task[3]}")
        with open(tried, "a+") as file:
            file.write("x")
        if os.path.getsize(tried) <= 2:
            raise ConnectionError("a trial")
        return solve(*task)

    monkeypatch.setattr(la.distributed, "_solve_rows", fails_twice)
    assert_same(la.distributed.sweep(client, linear, axes), la.sweep(linear, axes))
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(ConnectionError, match="a trial"):
        la.distributed.sweep(client, linear, axes, retries=1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_an_interrupt_returns_the_rows_that_are_there(client: Client, finetuning: dict[str, Any]) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 20:
            os.kill(os.getpid(), signal.SIGINT)

    found = la.distributed.sweep(client, finetuning, AXES, progress=interrupt)
    assert found.interrupted and 20 <= found.points < 60 and found.points % 5 == 0
    whole = la.sweep(finetuning, AXES)
    for name in found:
        np.testing.assert_array_equal(found[name], whole[name][: found.points])


def test_a_restart_during_a_sweep_is_told_as_such(client: Client, finetuning: dict[str, Any]) -> None:
    def restart(done: int, total: int) -> None:
        if done == 5:
            client.restart()

    with pytest.raises(FutureCancelledError):
        la.distributed.sweep(client, finetuning, AXES, progress=restart)


def test_a_client_that_is_closed_does_not_hide_the_first_error(client: Client, finetuning: dict[str, Any]) -> None:
    with Client(client.scheduler.address, set_as_default=False) as own:

        def close(done: int, total: int) -> None:
            own.close()
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            la.distributed.sweep(own, finetuning, AXES, progress=close)
    with Client(client.scheduler.address, set_as_default=False) as own:
        with pytest.raises(RuntimeError, match="the client was closed"):
            la.distributed.sweep(own, finetuning, AXES, progress=lambda done, total: own.close())
