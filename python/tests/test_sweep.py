"""Grids, their tables, and their interruption."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import lora_asymptotics as la


def test_a_sweep_has_the_outcomes_of_its_points(finetuning: dict[str, Any]) -> None:
    ridges, data = np.geomspace(0.1, 1.0, 4), [3, 4, 5]
    points = la.sweep(finetuning, {"lora.alpha": data, "lora.lambda": ridges})
    assert points.shape == (3, 4) and points.points == 12 and not points.interrupted and not points.errors
    assert points["lora.alpha"].dtype.kind == "i" and points["lora.alpha"][4] == 4
    # The first point of a row has no point before it.
    for row in range(3):
        alone = la.solve(finetuning, lora={"alpha": data[row], "lambda": ridges[0]})
        assert points.grid("lora.errors.test")[row, 0] == alone.lora.errors.test
        assert points.grid("lora.std_error.test")[row, 0] == alone.lora.std_error.test
    assert set(points["lora.status"]) == {"converged"} and points["lora.validity.reliable"].dtype == bool
    assert np.all(np.diff(points.grid("lora.errors.train"), axis=1) > 0)


def test_a_sweep_is_the_same_on_any_number_of_threads(finetuning: dict[str, Any]) -> None:
    axes = {"lora.alpha": [3.0, 4.0, 5.0], "lora.lambda": [0.2, 0.4]}
    first, second = (la.sweep(finetuning, axes, threads=threads) for threads in (1, 3))
    assert list(first) == list(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_many_scenarios_are_the_same_on_any_number_of_threads(finetuning: dict[str, Any]) -> None:
    scenarios = [{**finetuning, "lora": {"alpha": alpha, "lambda": 0.5}} for alpha in (3.0, 4.0, 5.0, 6.0)]
    alone = [la.solve(scenario) for scenario in scenarios]
    # Four threads take a scenario each, and eight share every one of them.
    for threads in (1, 4, 8):
        assert la.solve_many(scenarios, threads=threads) == alone


def test_a_sweep_is_a_table(linear: dict[str, Any]) -> None:
    points = la.sweep(linear, {"pretrain.lambda": [0.05, 0.1], "pretrain.kappa": [0.01, 1.0]})
    # A student that is too narrow is an error at its points.
    assert list(points.errors) == [0, 2] and "pretrain.kappa" in points.errors[0]
    assert np.isnan(points["pretrain.errors.test"][[0, 2]]).all()
    assert points["pretrain.status"].tolist() == [None, "converged", None, "converged"]
    frame = points.to_pandas()
    assert frame.shape == (4, len(points)) and frame["pretrain.errors.test"].notna().sum() == 2
    polar = points.to_polars()
    assert polar.shape == frame.shape and polar["pretrain.status"].to_list() == points["pretrain.status"].tolist()
    copied = pickle.loads(pickle.dumps(points))
    assert copied.axes.keys() == points.axes.keys() and copied.errors == points.errors
    np.testing.assert_array_equal(copied["pretrain.alignment"], points["pretrain.alignment"])
    assert "2 failed" in repr(points)


def test_progress_is_told(linear: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    la.sweep(linear, {"pretrain.lambda": [0.1, 0.2, 0.3]}, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (3, 3)
    la.solve_many([linear, linear], progress=True)
    assert "2/2" in capsys.readouterr().err

    def fails(done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        la.solve_many([linear], progress=fails)


def test_an_interrupt_at_the_end_keeps_everything(linear: dict[str, Any]) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    points = la.sweep(linear, {"pretrain.lambda": [0.1, 0.2, 0.3]}, progress=interrupt)
    assert points.points == 3 and points.interrupted
    many = la.solve_many([linear, linear], progress=interrupt)
    assert many == [la.solve(linear)] * 2 and many.interrupted


#: A program that interrupts itself after a second, as Ctrl-C does, and says how long the call took after that.
PROGRAM = """
import json, os, signal, sys, threading, time
import lora_asymptotics as la

slow = json.loads(sys.argv[1])
sent = []

def interrupt():
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)

threading.Timer(1.0, interrupt).start()
try:
    {call}
except KeyboardInterrupt:
    print("KeyboardInterrupt")
print(time.monotonic() - sent[0], flush=True)
# Work that was left behind does not hold up the end.
os._exit(0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("la.solve(slow)", "KeyboardInterrupt"),
        ("print(la.solve_many([la.Scenario(model=la.Model(2, 'linear', .5, la.Wishart(.5)), pretrain=la.Pretrain(.2, .1)), slow]))", "[<Outcome pretrain"),
        ("print(la.sweep(slow, {'pretrain.lambda': [0.02, 0.03]}))", "0 points, 1 columns, interrupted>"),
        ("la.simulate.compare(slow, {64: 4})", "KeyboardInterrupt"),
        ("la.optimize(slow, 'pretrain.errors.test', {'pretrain.lambda': (1e-3, 1.0)})", "KeyboardInterrupt"),
        ("la.learned_spectrum({**slow, 'model': {**slow['model'], 'activation': 'linear'}}).density_at([1.0] * 10**7)", "KeyboardInterrupt"),
        ("la.sweep({**slow, 'model': {**slow['model'], 'activation': 'linear'}}, {'pretrain.lambda': [0.1] * 3 * 10**6})", "KeyboardInterrupt"),
        ("la.fixed_point(lambda x: time.sleep(0.01) or x + 1.0, 0.0, max_iterations=10**6, patience=10**6)", "KeyboardInterrupt"),
    ],
)
def test_an_interrupt_returns_within_a_second(slow: dict[str, Any], call: str, expected: str) -> None:
    program = textwrap.dedent(PROGRAM).replace("{call}", call)
    command = [sys.executable, "-I", "-c", program, json.dumps(slow)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    *said, seconds = ran.stdout.splitlines()
    assert expected in "\n".join(said), ran.stdout + ran.stderr
    assert 0.0 <= float(seconds) < 1.0


def test_other_threads_run_during_a_solve(slow: dict[str, Any], beside_another_thread: Callable[..., Any]) -> None:
    """The interpreter is free while the library works."""
    medium = {**slow, "model": {**slow["model"], "tokens": 3}, "options": {"log2_nodes": 13}}
    _, seconds, silence = beside_another_thread(lambda: la.solve(medium))
    assert seconds > 0.2 and silence < 0.5 * seconds + 0.2


def test_calls_at_the_same_time_do_not_wait_for_each_other(finetuning: dict[str, Any], slow: dict[str, Any]) -> None:
    """Every call has threads of its own, also where it asks for one."""
    alone = la.solve(finetuning)
    with ThreadPoolExecutor(16) as pool:
        assert all(found == alone for found in pool.map(lambda _: la.solve(finetuning), range(64)))
    medium = {**slow, "model": {**slow["model"], "tokens": 3}, "options": {"log2_nodes": 13}}
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(la.solve, medium, threads=1)
        assert la.solve(finetuning, threads=1) == alone
        assert not long.done()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")
def test_a_forked_process_solves(finetuning: dict[str, Any]) -> None:
    """The threads of a pool do not survive a fork."""
    program = """
import json, os, sys
import lora_asymptotics as la
scenario = json.loads(sys.argv[1])
here = la.solve(scenario, threads=2)
child = os.fork()
if child == 0:
    os._exit(0 if la.solve(scenario, threads=2) == here else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-I", "-W", "ignore", "-c", program, json.dumps(finetuning)]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
