"""Runs the program `lora-asymptotics solve` on one thread, and takes its CPU time and standard deviations over seeds."""
import json
import os
import shlex
import statistics
import subprocess
import tempfile


def solve(program, scenarios):
    """CPU seconds, with those of the system, of one process that solves all scenarios, and their outcomes. The program may have arguments."""
    lines = "".join(json.dumps(scenario) + "\n" for scenario in scenarios)
    environment = os.environ | {"RAYON_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as found:
        given.write(lines)
        given.seek(0)
        process = subprocess.Popen(shlex.split(program), stdin=given, stdout=found, env=environment)
        _, _, usage = os.wait4(process.pid, 0)
        found.seek(0)
        outcomes = [json.loads(line) for line in found]
    if len(outcomes) != len(scenarios):
        raise RuntimeError(f"{program} has solved {len(outcomes)} of {len(scenarios)} scenarios")
    return usage.ru_utime + usage.ru_stime, outcomes


def observable(stage, name):
    """A value of a stage and its reported standard error, 0 if there is none."""
    value = stage["errors"][name] if name in stage["errors"] else stage["order"][name]
    return value, stage["std_error"].get(name) or 0.0


def spread(stages, name):
    """Mean and standard deviation of an observable over seeds, and the root mean square of its reported standard errors."""
    values, reported = zip(*(observable(stage, name) for stage in stages))
    return statistics.mean(values), statistics.stdev(values), statistics.mean(error * error for error in reported) ** 0.5


def median_tail_worst(times):
    """The median, the 90% quantile and the largest of some CPU times."""
    ordered = sorted(times)
    return [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.9, 1.0)]


def ending(stage):
    """How a solve ended, with the verdict on its validity where there is one."""
    verdict = stage.get("validity", {}).get("verdict")
    return stage["status"] + (f", {verdict}" if verdict else "")


def endings(stages):
    """How the solves ended, with the number of each ending."""
    words = [ending(stage) for stage in stages]
    return "; ".join(f"{words.count(word)} {word}" for word in sorted(set(words)))
