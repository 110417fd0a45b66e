"""The figure of merit of sampled pre-training: CPU seconds of one thread times the variance of Q and of the test error.

Solves each point with many seeds at default options, and prints for every program that is given the CPU time of a solve, the
standard deviations of Q and E over the seeds, the reported standard errors, and the geometric mean over Q and E of time times
variance. With several programs, such as those of two commits, the last columns are relative to the first one.

    python3 merit.py path/to/the/example/yardstick [another path] [--seeds 24] [--tokens 2 3 4]

Needs Linux, and nothing but the standard library.
"""
import argparse
import glob
import json
import os
import statistics
import subprocess


class Program:
    """The example `yardstick`, on one thread."""

    def __init__(self, path):
        environment = os.environ | {"RAYON_NUM_THREADS": "1"}
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)

    def cpu(self):
        files = glob.glob(f"/proc/{self.process.pid}/task/*/schedstat")
        return sum(int(open(file).read().split()[0]) for file in files) * 1e-9

    def solve(self, scenario):
        """CPU seconds, and the pre-training stage of the outcome."""
        before = self.cpu()
        self.process.stdin.write(json.dumps({"scenario": scenario, "repetitions": 1}) + "\n")
        self.process.stdin.flush()
        stage = json.loads(self.process.stdout.readline())["pretrain"]
        return self.cpu() - before, stage


def scenario(tokens, alpha, ridge, seed, more):
    model = {"tokens": tokens, "activation": "softmax", "delta": 0.5, "teacher": {"wishart": {"kappa0": 1.0}}}
    options = {"seed": seed} | more
    return {"model": model, "pretrain": {"alpha": alpha, "lambda": ridge}, "options": options}


def measured(program, point, seeds, more):
    """CPU time, and for Q and E the mean, the standard deviation over seeds, and the root mean square of the reported errors."""
    program.solve(scenario(*point, 0, more | {"log2_nodes": 8}))
    times, values, reported = [], [], []
    for seed in range(seeds):
        seconds, stage = program.solve(scenario(*point, seed, more))
        times.append(seconds)
        values.append((stage["order"]["q"], stage["errors"]["test"]))
        reported.append((stage["std_error"].get("q") or 0.0, stage["std_error"].get("test") or 0.0))
    columns = []
    for own, errors in zip(zip(*values), zip(*reported)):
        columns.append((statistics.mean(own), statistics.stdev(own), statistics.mean(e * e for e in errors) ** 0.5))
    return statistics.median(times), columns


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("programs", nargs="+")
    arguments.add_argument("--seeds", type=int, default=24)
    arguments.add_argument("--tokens", type=int, nargs="+", default=[2, 3, 4])
    arguments.add_argument("--alpha", type=float, default=0.1)
    arguments.add_argument("--ridge", type=float, default=0.1)
    arguments.add_argument("--options", type=json.loads, default={})
    arguments = arguments.parse_args()
    programs = [Program(path) for path in arguments.programs]
    print("| T | program | CPU | Q | std of Q (reported) | E | std of E (reported) | merit | gain | shift of Q, E in standard errors |"
          "\n|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for tokens in arguments.tokens:
        first = None
        for number, program in enumerate(programs):
            point = (tokens, arguments.alpha, arguments.ridge)
            seconds, columns = measured(program, point, arguments.seeds, arguments.options)
            merit = seconds * columns[0][1] * columns[1][1]
            first = first or (merit, columns)
            shifts = []
            for old, new in zip(first[1], columns):
                error = ((old[1] ** 2 + new[1] ** 2) / arguments.seeds) ** 0.5
                shifts.append(f"{(new[0] - old[0]) / error:.1f}" if number else "")
            cells = [f"{mean:.7f} | {deviation:.2e} ({reported:.2e})" for mean, deviation, reported in columns]
            print(f"| {tokens} | {number + 1} | {1e3 * seconds:.4g} ms | {' | '.join(cells)} | {merit:.2e} "
                  f"| {first[0] / merit:.3g} | {', '.join(shifts)} |", flush=True)


if __name__ == "__main__":
    main()
