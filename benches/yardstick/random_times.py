"""CPU times of random scenarios of softmax attention in both stages, at default options.

Draws scenarios from a fixed seed: amounts of data, ridges, noise and widths of teachers log-uniformly, fresh or reused sequences. Prints per
number of tokens the median, the 90% quantile and the worst CPU time, and the slowest scenarios with how they ended. With several
programs, such as those of two commits, every `--stride`-th scenario is solved by all of them, and the differences of q and of the test error between each
program and the first are counted in combined reported standard errors.

    python3 random_times.py "path/to/new/lora-asymptotics solve" ["path/to/old/lora-asymptotics solve"] [--count 60] [--stride 1] [--slowest 5]

Needs Linux, and nothing but the standard library.
"""
import argparse
import json
import math
import random
import sys

from solving import ending, median_tail_worst, observable, solve

TOKENS = (2, 3, 4, 5)


def scenarios(count):
    """A list of scenarios, the same for the same count or its beginning for a larger one."""
    generator = random.Random(20)

    def between(low, high):
        return float(f"{math.exp(generator.uniform(math.log(low), math.log(high))):.3g}")

    drawn = []
    for number in range(count):
        model = {"tokens": TOKENS[number % len(TOKENS)], "activation": "softmax", "delta": between(0.1, 1.0),
                 "teacher": {"wishart": {"kappa0": between(0.25, 2.0)}}}
        pretrain = {"alpha": between(0.05, 0.5), "lambda": between(0.01, 0.2)}
        lora = {"alpha": between(1.0, 10.0), "lambda": between(0.1, 1.0), "sequences": generator.choice(["fresh", "reused"])}
        drawn.append({"model": model, "pretrain": pretrain, "lora": lora})
    return drawn


def ended(outcome):
    if "error" in outcome:
        return outcome["error"]["message"]
    stages = ((stage, outcome[stage]) for stage in ("pretrain", "lora") if stage in outcome)
    return "; ".join(f"{name} {ending(stage)}" for name, stage in stages)


def difference(one, two):
    """The largest difference of q and the test error of both stages, in combined reported standard errors."""
    largest = 0.0
    for stage in ("pretrain", "lora"):
        for name in ("q", "test"):
            if any("error" in outcome or outcome[stage]["status"] != "converged" for outcome in (one, two)):
                continue
            (value, error), (other, other_error) = observable(one[stage], name), observable(two[stage], name)
            combined = math.hypot(error, other_error)
            largest = max(largest, abs(value - other) / combined if combined > 0.0 else 0.0)
    return largest


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("programs", nargs="+")
    arguments.add_argument("--count", type=int, default=60)
    arguments.add_argument("--stride", type=int, default=1, help="of the scenarios that all programs but the first solve")
    arguments.add_argument("--slowest", type=int, default=5)
    arguments = arguments.parse_args()
    drawn = scenarios(arguments.count)
    first = None
    for number, program in enumerate(arguments.programs):
        chosen = range(0, len(drawn), arguments.stride if number else 1)
        solved = {}
        for index in chosen:
            seconds, (outcome,) = solve(program, [drawn[index]])
            solved[index] = (seconds, outcome)
        first = first or solved
        print(f"\nProgram {number + 1}, {len(solved)} scenarios\n\n| T | median | 90% | worst | converged |\n|---|---|---|---|---|")
        for tokens in (*TOKENS, "all"):
            own = [solved[index] for index in chosen if tokens in ("all", drawn[index]["model"]["tokens"])]
            if not own:
                continue
            quantiles = median_tail_worst(seconds for seconds, _ in own)
            converged = sum(ended(outcome).count("converged") == 2 for _, outcome in own)
            print(f"| {tokens} | {' | '.join(f'{1e3 * time:.4g} ms' for time in quantiles)} | {converged} of {len(own)} |")
        if number:
            shared = [(difference(first[index][1], outcome), index) for index, (_, outcome) in solved.items()]
            ratios = sorted(seconds / first[index][0] for index, (seconds, _) in solved.items())
            print(f"\nOn the same scenarios, {ratios[len(ratios) // 2]:.3g} times the time of program 1 (median).")
            print("Largest differences in standard errors:", ", ".join(f"{size:.1f}" for size, _ in sorted(shared, reverse=True)[:5]))
            for size, index in shared:
                if size > 4.0:
                    print(f"{size:.1f} at {json.dumps(drawn[index])}: {ended(first[index][1])} | {ended(solved[index][1])}")
        print("\nSlowest:")
        for index in sorted(solved, key=lambda index: -solved[index][0])[:arguments.slowest]:
            print(f"- {1e3 * solved[index][0]:.4g} ms, {ended(solved[index][1])}: {json.dumps(drawn[index])}")
        for index, (seconds, outcome) in solved.items():
            if ended(outcome).count("converged") != 2:
                print(f"- not converged, {1e3 * seconds:.4g} ms, {ended(outcome)}: {json.dumps(drawn[index])}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
