"""Whether standard errors are honest: the spread over seeds over the mean of the reported standard errors.

In brackets, the root mean square of z, the distance from the mean over seeds in reported standard errors, which a few much too large errors
cannot hide, and the spread itself. Solves without a standard error are left out.

    python3 error_bars.py "path/to/lora-asymptotics solve" [--seeds 50]

From 50 seeds, a ratio is known to some 10%, and more where the errors of a single solve, from eight scrambles, vary much. Needs Linux, and
nothing but the standard library.
"""
import argparse
import statistics

from scenarios import finetuning, with_seed
from solving import endings, observable, solve

POINTS = [
    ("T = 2, alpha' = 5, lambda' = .5", finetuning("softmax", 2, 5.0, 0.5)),
    ("T = 2, alpha' = 5, lambda' = .05", finetuning("softmax", 2, 5.0, 0.05)),
    ("T = 2, alpha' = 2, lambda' = .5", finetuning("softmax", 2, 2.0, 0.5)),
    ("T = 3, alpha' = 4, lambda' = .5", finetuning("softmax", 3, 4.0, 0.5)),
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
            values, errors = zip(*(found for found in (observable(stage, observed) for stage in stages) if found[1] > 0.0))
            deviation, reported = statistics.stdev(values), statistics.mean(errors)
            center = statistics.mean(values)
            z = statistics.mean(((value - center) / error) ** 2 for value, error in zip(values, errors)) ** 0.5
            cells.append(f"{deviation / reported:.2f} ({z:.2f}; {deviation:.1e})")
        print(f"| {name} | {1e3 * seconds / arguments.seeds:.4g} ms | {' | '.join(cells)} | {endings(stages)} |", flush=True)


if __name__ == "__main__":
    main()
