"""Times the library beside `by_hand.py`, in one run, and prints the table of benches/README.md.

The two alternate, one thread each. What is compared is the CPU time of the solve alone: start-up, parsing and compilation are
excluded by a first solve that does not count. Needs Linux, which tells the CPU time of the threads of another process.

    python3 compare.py path/to/the/example/yardstick [--runs 5] [--only linear]
"""
import argparse
import glob
import json
import os
import statistics
import subprocess
import time

import by_hand
from scenarios import finetuning, pretraining

SOFTMAX = {"log2_nodes": 14, "scrambles": 4, "tolerance": 1e-7}

# Name, scenario, and how often the library solves it to be timed.
CASES = [
    ("linear pre-training, T = 2, alpha = .2, lambda = .1", pretraining("linear", 2, 0.5, 0.2, 0.1), 2000),
    ("Bayes-optimal pre-training, T = 3, alpha = .1", pretraining("linear", 3, 1.0, 0.1, None, estimator="bayes_optimal"), 2000),
    ("Bayes-optimal pre-training of softmax, T = 2, alpha = .2", pretraining("softmax", 2, 0.5, 0.2, None, estimator="bayes_optimal"), 2000),
    ("linear LoRA, T = 2, alpha' = 2, lambda' = .5", finetuning("linear", 2, 2.0, 0.5), 10),
    ("linear LoRA, T = 2, alpha' = 5, lambda' = .5", finetuning("linear", 2, 5.0, 0.5), 10),
    ("softmax pre-training, T = 2, alpha = .2, lambda = .1", pretraining("softmax", 2, 0.5, 0.2, 0.1, SOFTMAX), 2),
    ("softmax pre-training, T = 3, alpha = .1, lambda = .1", pretraining("softmax", 3, 1.0, 0.1, 0.1, SOFTMAX), 1),
    ("softmax LoRA, T = 2, alpha' = 5, lambda' = .5", finetuning("softmax", 2, 5.0, 0.5, SOFTMAX), 1),
    ("softmax LoRA, T = 3, alpha' = 4, lambda' = .5", finetuning("softmax", 3, 4.0, 0.5, SOFTMAX), 1),
]


class Library:
    """The example `yardstick`, on one thread."""

    def __init__(self, path):
        environment = os.environ | {"RAYON_NUM_THREADS": "1"}
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)

    def cpu(self):
        files = glob.glob(f"/proc/{self.process.pid}/task/*/schedstat")
        return sum(int(open(file).read().split()[0]) for file in files) * 1e-9

    def solve(self, scenario, repetitions):
        """CPU seconds per solve, and the outcome."""
        before = self.cpu()
        self.process.stdin.write(json.dumps({"scenario": scenario, "repetitions": repetitions}) + "\n")
        self.process.stdin.flush()
        outcome = json.loads(self.process.stdout.readline())
        return (self.cpu() - before) / repetitions, outcome


def by_hand_timed(scenario):
    before = time.process_time()
    order = by_hand.solve(scenario)
    return time.process_time() - before, order


def readable(seconds):
    for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            break
    return f"{seconds * scale:.3g} {unit}"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("library")
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--only", default="", help="a part of the names of the rows to run")
    arguments = arguments.parse_args()
    library = Library(arguments.library)
    print("| solve | by hand | here | ratio, median (range) | q by hand | q here |\n|---|---|---|---|---|---|", flush=True)
    for name, scenario, repetitions in CASES:
        if arguments.only not in name:
            continue
        by_hand.solve(scenario | {"options": {"log2_nodes": 8, "scrambles": 1}})
        library.solve(scenario, 1)
        slow, fast = [], []
        for _ in range(arguments.runs):
            seconds, order = by_hand_timed(scenario)
            slow.append(seconds)
            seconds, outcome = library.solve(scenario, repetitions)
            fast.append(seconds)
        stage = outcome["pretrain" if "pretrain" in scenario else "lora"]
        assert stage["status"] == "converged", outcome
        ratios = sorted(s / f for s, f in zip(slow, fast))
        print(f"| {name} | {readable(statistics.median(slow))} | {readable(statistics.median(fast))} "
              f"| {statistics.median(ratios):.3g} ({ratios[0]:.3g} to {ratios[-1]:.3g}) "
              f"| {order['q']:.5f} | {stage['order']['q']:.5f} |", flush=True)


if __name__ == "__main__":
    main()
