"""Whether standard errors are honest: the spread over seeds over the mean of the reported standard errors.

    python3 error_bars.py path/to/the/example/solve [--seeds 50]

From 50 seeds, a ratio is known to some 10%, and more where the errors of a single solve, from eight scrambles, vary much. Needs Linux, and
nothing but the standard library.
"""
import argparse
import statistics

from scenarios import finetuning, with_seed
from solving import endings, observable, solve

POINTS = [
    ("good, T = 2, alpha' = 5, lambda' = .5", finetuning("softmax", 2, 5.0, 0.5)),
    ("marginal, T = 2, alpha' = 5, lambda' = .05", finetuning("softmax", 2, 5.0, 0.05)),
    ("unreliable, T = 2, alpha' = 2, lambda' = .5", finetuning("softmax", 2, 2.0, 0.5)),
    ("good, T = 3, alpha' = 4, lambda' = .5", finetuning("softmax", 3, 4.0, 0.5)),
]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("program")
    arguments.add_argument("--seeds", type=int, default=50)
    arguments = arguments.parse_args()
    print("| softmax LoRA | CPU | q | m | E' | solves |\n|---|---|---|---|---|---|", flush=True)
    for name, scenario in POINTS:
        seconds, outcomes = solve(arguments.program, [with_seed(scenario, seed) for seed in range(arguments.seeds)])
        stages = [outcome["lora"] for outcome in outcomes]
        cells = []
        for observed in ("q", "m", "test"):
            values, errors = zip(*(observable(stage, observed) for stage in stages))
            deviation, reported = statistics.stdev(values), statistics.mean(errors)
            cells.append(f"{deviation / reported:.2f} ({deviation:.1e})")
        print(f"| {name} | {1e3 * seconds / arguments.seeds:.4g} ms | {' | '.join(cells)} | {endings(stages)} |", flush=True)


if __name__ == "__main__":
    main()
