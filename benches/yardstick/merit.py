"""The figure of merit of default solves: CPU seconds of one thread times variance, before and after a change.

Solves each point with many seeds at default options, and prints for both programs the CPU time of a solve and the standard
deviations of q and of the test error over the seeds, with the root mean square of the reported standard errors in brackets. The gain is the
ratio of CPU time times variance, old over new, of q, of the test error, and in the geometric mean of both. The last column is the difference
of the means in combined standard errors, which must not exceed 4.

    cargo build --release -p lora-asymptotics-cli      # in a checkout of each commit
    python3 merit.py "path/to/old/lora-asymptotics solve" "path/to/new/lora-asymptotics solve" [--seeds 24] [--only lora]

In commits before there was this program, it is the example `solve`, without an argument.

Needs Linux, and nothing but the standard library. The exit status is 1 if values disagree. From 24 seeds, a gain is known to some 40%, as
variances are.
"""
import argparse
import sys

from scenarios import finetuning, pretraining, with_seed
from solving import endings, solve, spread

LARGEST_DIFFERENCE = 4.0


def reused():
    scenario = pretraining("softmax", 2, 0.5, 0.2, 0.05)
    return scenario | {"lora": {"alpha": 5.0, "lambda": 0.5, "sequences": "reused"}}


# Name, stage that is judged, and scenario.
POINTS = [
    ("softmax LoRA, T = 2", "lora", finetuning("softmax", 2, 5.0, 0.5)),
    ("softmax LoRA, T = 3", "lora", finetuning("softmax", 3, 4.0, 0.5)),
    ("softmax LoRA, T = 4", "lora", finetuning("softmax", 4, 4.0, 0.5)),
    ("softmax LoRA, T = 2, reused, with pre-training", "lora", reused()),
    ("linear LoRA, T = 2", "lora", finetuning("linear", 2, 3.0, 0.3)),
    ("softmax pre-training, T = 2", "pretrain", pretraining("softmax", 2, 1.0, 0.1, 0.1)),
    ("softmax pre-training, T = 3", "pretrain", pretraining("softmax", 3, 1.0, 0.1, 0.1)),
]


def measured(program, scenario, stage, seeds):
    """CPU seconds of a solve, and the stages of all seeds."""
    seconds, outcomes = solve(program, [with_seed(scenario, seed) for seed in range(seeds)])
    return seconds / seeds, [outcome[stage] for outcome in outcomes]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("old")
    arguments.add_argument("new")
    arguments.add_argument("--seeds", type=int, default=24)
    arguments.add_argument("--only", default="", help="points whose name contains this")
    arguments = arguments.parse_args()
    print("| solve | CPU old | CPU new | std of q old | std of q new | std of E old | std of E new | gain of q | gain of E | gain "
          "| difference of q, E |\n|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    agree = True
    for name, stage, scenario in POINTS:
        if arguments.only not in name:
            continue
        (before, old), (after, new) = (measured(program, scenario, stage, arguments.seeds)
                                       for program in (arguments.old, arguments.new))
        cells, gains, differences = [], [], []
        for observable in ("q", "test"):
            mean, deviation, reported = spread(old, observable)
            new_mean, new_deviation, new_reported = spread(new, observable)
            cells += [f"{deviation:.2e} ({reported:.2e})", f"{new_deviation:.2e} ({new_reported:.2e})"]
            gains.append(before * deviation**2 / (after * new_deviation**2))
            combined = ((deviation**2 + new_deviation**2) / arguments.seeds) ** 0.5
            differences.append((new_mean - mean) / combined)
        agree &= all(abs(difference) <= LARGEST_DIFFERENCE for difference in differences)
        print(f"| {name} | {1e3 * before:.4g} ms | {1e3 * after:.4g} ms | {' | '.join(cells)} | {gains[0]:.3g} | {gains[1]:.3g} "
              f"| {(gains[0] * gains[1]) ** 0.5:.3g} | {differences[0]:.1f}, {differences[1]:.1f} |", flush=True)
        print(f"{name}: old {endings(old)}; new {endings(new)}", file=sys.stderr, flush=True)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
