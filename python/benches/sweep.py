"""The time of a sweep from Python, beside that of the same sweep in Rust (`sweep_time.rs`).

    python python/benches/sweep.py [--runs 5]

Both begin with the same JSON, use all threads, and end with the whole table in memory. The fastest of several runs counts,
because other work on the machine only adds to the time. Runs of the two alternate.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np

import lora_asymptotics as la

ROOT = Path(__file__).parents[2]
LAYER = {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}}
RIDGES = np.geomspace(1e-2, 1.0, 50)

#: Name, scenario, and axes.
CASES = [
    (
        "1000 linear points, pre-training",
        {"model": LAYER, "pretrain": {"alpha": 0.2, "lambda": 0.1}},
        {"model.delta": np.linspace(0.1, 1.0, 20), "pretrain.lambda": RIDGES},
    ),
    (
        "1000 linear points, both stages",
        {
            "model": LAYER,
            "pretrain": {"alpha": 0.2, "lambda": 0.1},
            "lora": {"alpha": 3.0, "lambda": 0.5},
            "options": {"log2_nodes": 9},
        },
        {"model.delta": np.linspace(0.1, 1.0, 20), "pretrain.lambda": RIDGES},
    ),
    (
        "200 softmax points, both stages",
        {
            "model": {**LAYER, "activation": "softmax"},
            "pretrain": {"alpha": 0.4, "lambda": 0.05},
            "lora": {"alpha": 8.0, "lambda": 0.1},
            "options": {"log2_nodes": 8},
        },
        {"lora.alpha": np.geomspace(10.0, 4.0, 4), "pretrain.lambda": np.geomspace(1e-2, 0.1, 50)},
    ),
]


def rust(program: Path, grid: str) -> float:
    return float(subprocess.run([program], input=grid, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    build = ["cargo", "build", "--release", "--quiet", "-p", "lora-asymptotics-python", "--example", "sweep_time"]
    subprocess.run(build, cwd=ROOT, check=True)
    program = ROOT / "target/release/examples/sweep_time"
    for name, scenario, axes in CASES:
        lists = [{"field": field, "values": values.tolist()} for field, values in axes.items()]
        grid = json.dumps({"scenario": scenario, "axes": lists})
        times: dict[str, list[float]] = {"Rust": [], "Python": []}
        for _ in range(runs):
            times["Rust"].append(rust(program, grid))
            begun = time.perf_counter()
            points = la.sweep(scenario, axes)
            times["Python"].append(time.perf_counter() - begun)
            assert not points.errors
        best = {language: min(seconds) for language, seconds in times.items()}
        ratio = best["Python"] / best["Rust"]
        print(f"{name}: Rust {best['Rust'] * 1e3:.1f} ms, Python {best['Python'] * 1e3:.1f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
