"""The judge: verdicts per second, cost of linting, reproducibility on a loaded machine, memory.

- **speed**: distinct patches of built-in problems, base layers only and with namespaces, two zygotes; against
  ``subprocess.run([python, file])`` for each test case, two at a time, as judges are often written, in the same run;
- **lint**: ruff and bandit over one batch of 200 patches;
- **steady**: 1,000 patches (right, buggy, mutated, foreign, endless, asleep, within reach of a limit) judged three
  times: in order by one zygote, shuffled by two, and while other processes eat every core;
- **memory**: resident size of this process and of the zygotes while 10,000 patches are judged.
"""

import argparse
import contextlib
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.record import write
from coral_core.config import ProblemsConfig
from coral_core.jobs.job_content import problem_set
from coral_core.judge.judge import Judge, PatchLimits, Verdict
from coral_core.judge.sandbox.zygote_pool import BASE_LAYERS, Pool
from coral_core.problems.mutation import mutations
from coral_core.problems.problem import Problem
from coral_core.problems.values import decode
from coral_core.scoring.judged import Judged
from coral_core.scoring.lint import findings
from coral_core.scoring.objectives import Scores, score

Patch = tuple[Problem, str]
SCRIPT = """\
{patch}
value = {entry}(*{arguments!r})
print("PASS" if value == {expected!r} else "FAIL")
"""


def problems() -> list[Problem]:
    """Every bug and retention problem of the default configuration."""
    found = problem_set(ProblemsConfig())
    return [*found.fitness, *found.monitor, *found.held_out]


def distinct(source: list[Problem], count: int, mark: str) -> list[Patch]:
    """`count` patches, no two alike: reference and buggy version in turn, each with a comment of its own."""
    made = []
    for number in range(count):
        problem = source[number % len(source)]
        text = problem.reference if number % 2 else problem.buggy
        made.append((problem, f"{text.rstrip()}\n# {mark} {number}\n"))
    return made


def _script(folder: Path, number: int, problem: Problem) -> Path:
    file = folder / f"{number}.py"
    case = problem.cases[0]
    arguments, expected = [decode(value) for value in case.arguments], decode(case.value)
    file.write_text(
        SCRIPT.format(patch=problem.reference, entry=problem.entry_point, arguments=arguments, expected=expected)
    )
    return file


def _passes(file: Path) -> bool:
    done = subprocess.run([sys.executable, str(file)], capture_output=True, check=False, timeout=30)
    return b"PASS" in done.stdout


def speed(source: list[Problem], count: int, subprocesses: int) -> dict[str, Any]:
    """Children per second with and without namespaces, and of a subprocess for each test case."""
    rates = {}
    for name, layers in (("base_layers", BASE_LAYERS), ("with_namespaces", (*BASE_LAYERS, "namespaces"))):
        with Judge(workers=2) as judge:
            judge._pool.close()
            judge._pool = Pool(2, layers)
            judge.judge_batch([(p, p.buggy) for p in source])  # zygotes are up, buggy versions known
            patches = distinct(source, count, name)
            started = time.perf_counter()
            judge.judge_batch(patches)
            rates[name] = count / (time.perf_counter() - started)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as two:
        files = [_script(Path(folder), number, source[number % len(source)]) for number in range(subprocesses)]
        started = time.perf_counter()
        passed = list(two.map(_passes, files))
        one = subprocesses / (time.perf_counter() - started)
    if not all(passed):
        raise RuntimeError(f"{passed.count(False)} references fail as subprocesses: the comparison is not fair")
    cases = sum(len(p.cases) for p, _ in distinct(source, count, "")) / count
    return {
        "children_per_second": rates,
        "cases_per_child": cases,
        "subprocess_per_case": {"cases_per_second": one, "patches_per_second": one / cases},
        "ratio_per_child": rates["base_layers"] / one,
        "ratio_per_patch": rates["base_layers"] / (one / cases),
    }


def lint(source: list[Problem], batch: int) -> dict[str, Any]:
    """Milliseconds of ruff and bandit per patch, median of five batches."""
    findings([source[0].reference])  # imports
    times = []
    for turn in range(5):
        texts = [text for _, text in distinct(source, batch, f"lint {turn}")]
        started = time.perf_counter()
        findings(texts)
        times.append((time.perf_counter() - started) / batch * 1000)
    return {"batch": batch, "ms_per_patch": sorted(times)[2], "all": times}


def varied(source: list[Problem], count: int) -> list[Patch]:
    """Right, buggy, mutated and foreign patches, and some that stall, sleep, crash or come near a limit."""
    draw = random.Random(0)
    made: list[Patch] = []
    for number in range(count):
        problem = source[number % len(source)]
        name = problem.entry_point
        mutants = [mutation.source for mutation in mutations(problem.reference)]
        other = draw.choice(source)
        kinds = [
            problem.reference,
            problem.buggy,
            draw.choice(mutants or [problem.buggy]),
            draw.choice(mutants or [problem.buggy]),
            other.reference + f"\n{name} = {other.entry_point}\n",
            f"def {name}(*a):\n    n = 0\n    while n < {draw.choice([8_000, 20_000, 24_000, 30_000])}:\n        n += 1\n    return n\n",
        ]
        rare = [
            f"def {name}(*a):\n    while True:\n        pass\n",
            f"def {name}(*a):\n    return sum(range({draw.choice([10**6, 10**7, 10**12])}))\n",
            f"import time\ndef {name}(*a):\n    time.sleep(60)\n",
            f"def {name}(*a):\n    return [0] * 10**9\n",
            f"def {name}(*a):\n    return {name}(*a)\n",
        ]
        text = draw.choice(rare) if number % 25 == 24 else kinds[number % len(kinds)]
        made.append((problem, f"{text.rstrip()}\n# varied {number}\n"))
    return made


@contextlib.contextmanager
def eaten(processes: int) -> Iterator[None]:
    """`processes` endless loops beside us."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def scored(patches: list[Patch], found: list[Verdict], lines: list[int]) -> Scores:
    judged = Judged(
        problems=tuple(problem for problem, _ in patches),
        patches=tuple((text,) for _, text in patches),
        verdicts=tuple((verdict,) for verdict in found),
        base_passes=frozenset(),
        trainable_parameters=1,
        base_parameters=1_000_000,
    )
    return score(judged, lines)


def steady(source: list[Problem], count: int) -> dict[str, Any]:
    """Differences between three judgings of the same patches."""
    patches = varied(source, count)
    limits = PatchLimits(wall_seconds=2.0)
    order = random.Random(1).sample(range(count), count)
    runs: list[list[Verdict]] = []
    seconds, alone = [], []
    for workers, shuffled, eaters in ((1, False, 0), (2, True, 0), (2, True, os.cpu_count() or 1)):
        started = time.perf_counter()
        with eaten(eaters), Judge(limits, workers=workers) as judge:
            found = judge.judge_batch([patches[n] for n in order] if shuffled else patches)
            alone.append(judge.repeated_alone)
        seconds.append(time.perf_counter() - started)
        back = dict(zip(order, found, strict=True)) if shuffled else dict(enumerate(found))
        runs.append([back[n] for n in range(count)])
    with Judge(limits, workers=2) as judge:
        known = dict(zip([p.problem_id for p in source], judge.reference_lines(source), strict=True))
    lines = [known[problem.problem_id] for problem, _ in patches]
    scores = [scored(patches, found, lines) for found in runs]
    return {
        "patches": count,
        "outcomes": Counter(verdict.outcome for verdict in runs[0]),
        "different_verdicts": [sum(a != b for a, b in zip(runs[0], other, strict=True)) for other in runs[1:]],
        "same_scores": all(other == scores[0] for other in scores[1:]),
        "judged_again_alone": alone,
        "seconds": {"in order": seconds[0], "shuffled, two zygotes": seconds[1], "every core eaten": seconds[2]},
    }


def resident(pid: int) -> float:
    """Resident megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def memory(source: list[Problem], count: int) -> dict[str, Any]:
    """Resident megabytes of judge and zygotes, ten times on the way."""
    marks: list[dict[str, Any]] = []
    with Judge(workers=2) as judge:
        for part in range(10):
            judge.judge_batch(distinct(source, count // 10, f"memory {part}"))
            zygotes = [resident(zygote._process.pid) for zygote in judge._pool._zygotes]
            marks.append({"patches": (part + 1) * count // 10, "judge": resident(os.getpid()), "zygotes": zygotes})
    growth = marks[-1]["judge"] - marks[0]["judge"]
    return {"marks": marks, "growth_mb": growth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--children", type=int, default=2_000)
    parser.add_argument("--subprocesses", type=int, default=200)
    parser.add_argument("--steady", type=int, default=1_000)
    parser.add_argument("--memory", type=int, default=10_000)
    options = parser.parse_args()
    source = problems()
    result = {
        "memory": memory(source, options.memory),
        "speed": speed(source, options.children, options.subprocesses),
        "lint": lint(source, 200),
        "steady": steady(source, options.steady),
    }
    fast = result["speed"]
    print(f"children per second: {fast['children_per_second']}")
    print(
        f"against a subprocess per test case: {fast['ratio_per_patch']:.0f} x per patch, {fast['ratio_per_child']:.1f} x per process"
    )
    print(f"lint: {result['lint']['ms_per_patch']:.2f} ms a patch")
    print(f"steady: {result['steady']}")
    print(f"memory: {result['memory']['growth_mb']:+.1f} MB from the first tenth to the last")
    write("judge", result)


if __name__ == "__main__":
    main()
