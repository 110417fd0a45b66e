"""CPU times of softmax LoRA where many samples have several minima, at default options.

Solves a grid of small amounts of data and small ridges at two and three tokens, on the frozen law of `scenarios.py`, and prints per number of tokens
the median, the 90% quantile and the worst CPU time, how many solves took more than a second, and the slowest ones with how they ended.

    python3 unreliable_times.py "path/to/lora-asymptotics solve" [--seeds 3] [--slowest 4]

Needs Linux, and nothing but the standard library. Solves that collapse are left out.
"""
import argparse

from scenarios import finetuning, with_seed
from solving import ending, median_tail_worst, solve

ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
RIDGES = (0.02, 0.05, 0.1, 0.17, 0.3, 0.5, 0.8)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("program")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--slowest", type=int, default=4)
    arguments = arguments.parse_args()
    print("| T | solves | median | 90% | worst | above 1 s |\n|---|---|---|---|---|---|", flush=True)
    slowest = []
    for tokens in (2, 3):
        solved = []
        for alpha in ALPHAS:
            for ridge in RIDGES:
                scenario = finetuning("softmax", tokens, alpha, ridge)
                for seed in range(arguments.seeds):
                    seconds, (outcome,) = solve(arguments.program, [with_seed(scenario, seed)])
                    if outcome["lora"]["status"] != "collapsed":
                        solved.append((seconds, tokens, alpha, ridge, seed, ending(outcome["lora"])))
        solved.sort()
        times = [seconds for seconds, *_ in solved]
        quantiles = " | ".join(f"{seconds:.2f} s" for seconds in median_tail_worst(times))
        print(f"| {tokens} | {len(times)} | {quantiles} | {sum(seconds > 1.0 for seconds in times)} |", flush=True)
        slowest += solved[-arguments.slowest:]
    print()
    for seconds, tokens, alpha, ridge, seed, how in sorted(slowest, reverse=True):
        print(f"{seconds:.2f} s: T = {tokens}, alpha' = {alpha}, lambda' = {ridge}, seed {seed}: {how}")


if __name__ == "__main__":
    main()
