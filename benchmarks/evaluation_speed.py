"""Evaluation of SmolLM2 against an earlier commit: generated tokens per CPU second on the same prompts.

    python -m benchmarks.evaluation_speed

Each side is an unpacked commit (HEAD, without uncommitted changes, and the earlier one) in a process of its own with one torch
thread; the sides take turns. CPU seconds are those of the request, after the model is loaded; those of the first request of a
process include the trial of its shapes, and are shown beside the others. Greedy, so that texts can be compared; pass@1 is that
of the bare base model.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.quickstart_cost import source
from benchmarks.record import RESULTS, ROOT, write
from coral_core.config.tree import ProblemsConfig
from coral_core.jobs.job_content import problem_set
from coral_core.judge.judge import Judge
from coral_core.prompting.extraction import extract
from coral_core.prompting.templates import INSTRUCT

NAME = "evaluation_speed"
SIDES = (("old", "float32"), ("new", "float32"), ("new", "bfloat16"))
SIDE = """
import json, sys, time
from coral_core.config.tree import BaseModelConfig, GenerationConfig
from coral_core.genome import GREEDY
try:
    from coral_core.lm.engine import TorchBackend
except ImportError:
    from coral_core.lm.torch_backend import TorchBackend
asked = json.loads(sys.stdin.readline())
backend = TorchBackend(BaseModelConfig(name=asked["model"], dtype=asked["dtype"], prompt="instruct"))
light = GREEDY.model_copy(update={"token_limit": asked["token_limit"]})
prompts = [tuple(prompt) for prompt in asked["prompts"]]
shape = GenerationConfig(batch_size=asked["batch_size"], prompt_length=asked["prompt_length"])
runs = []
for _ in range(asked["repeats"]):
    cpu = time.process_time()
    try:
        from coral_core.lm.requests import GenerationRequest
    except ImportError:
        texts, tokens = backend.generate(None, light, prompts, 1, 1, shape, asked["stop"])[:2]
    else:
        from coral_core.lm.requests import Entry
        request = GenerationRequest(entries=(Entry(adapter=None, light=light, seed=1),), prompts=prompts, shape=shape,
                                    stop=asked["stop"], prefix=asked["prefix"])
        found = backend.generate(request).only()
        texts, tokens = found.completions, found.cost.tokens
    runs.append({"cpu_seconds": time.process_time() - cpu, "tokens": tokens})
print(json.dumps({"runs": runs, "texts": [group[0] for group in texts]}))
"""
"""Runs in the tree of either commit: the interface of the earlier one differs."""


def measured(tree: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Runs and texts of one process in `tree`."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SIDE], input=json.dumps(asked) + "\n", cwd=tree, env=environment, text=True, check=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a model that `coral model fetch` fetched, or a folder")
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--token-limit", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=32, help="rows of a batch, for both sides")
    parser.add_argument("--repeats", type=int, default=1, help="requests of each process")
    parser.add_argument("--rounds", type=int, default=1, help="processes of each side")
    parser.add_argument("--against", default="1f1d1b0", help="the earlier commit")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / NAME, help="unpacked commits")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    trees = {}
    for side, name in (("old", options.against), ("new", "HEAD")):
        commit = subprocess.run(["git", "rev-parse", name], cwd=ROOT, check=True, capture_output=True, text=True)
        trees[side] = source(commit.stdout.strip(), options.work.absolute())
    problems = problem_set(ProblemsConfig(fitness=options.prompts)).fitness[: options.prompts]
    asked = {
        "model": _folder(options.model),
        "prompts": [(problem.problem_id, INSTRUCT.prompt(problem.buggy)) for problem in problems],
        "prefix": INSTRUCT.before,
        "stop": INSTRUCT.stop,
        "token_limit": options.token_limit,
        "batch_size": options.batch_size,
        "prompt_length": 128,
        "repeats": options.repeats,
    }
    runs: dict[str, list[dict[str, Any]]] = {}
    texts: dict[str, list[str]] = {}
    for _ in range(options.rounds):
        for side, dtype in SIDES:
            found = measured(trees[side], asked | {"dtype": dtype})
            runs.setdefault(f"{side} {dtype}", []).extend(found["runs"])
            texts[f"{side} {dtype}"] = [_cut(text) for text in found["texts"]]
            print(side, dtype, found["runs"], flush=True)
    reference = f"{SIDES[0][0]} {SIDES[0][1]}"
    rates = {
        name: statistics.median(run["tokens"] / run["cpu_seconds"] for run in found) for name, found in runs.items()
    }
    rows: dict[str, dict[str, Any]] = {}
    for name, its in runs.items():
        patches = [
            extract(text, problem.entry_point).patch for text, problem in zip(texts[name], problems, strict=True)
        ]
        with Judge() as judge:
            verdicts = judge.judge_batch(list(zip(problems, patches, strict=True)), 600)
        rows[name] = {
            "tokens_per_cpu_second": round(rates[name], 2),
            "ratio": round(rates[name] / rates[reference], 3),
            "equal_texts": statistics.fmean(map(str.__eq__, texts[name], texts[reference])),
            "pass_at_1": statistics.fmean(verdict.passed for verdict in verdicts),
            "runs": [{key: round(value, 2) for key, value in run.items()} for run in its],
        }
        print(name, {key: value for key, value in rows[name].items() if key != "runs"})
    settings = {key: getattr(options, key) for key in ("prompts", "token_limit", "batch_size", "repeats", "rounds")}
    # the commit that was unpacked, not the one that is checked out by now
    facts = {"against": options.against, "commit": trees["new"].name, "settings": settings, "sides": rows}
    write(NAME, facts, options.results)


def _folder(model: str) -> str:
    """The folder of a fetched model, because the earlier commit does not know such names."""
    from coral_core.config.tree import BaseModelConfig
    from coral_core.lm.base_model import local_path

    return str(local_path(BaseModelConfig(name=model)) or model)


def _cut(text: str) -> str:
    """The text up to the first text that ends completions: the earlier commit leaves it in."""
    return text[: min((text.index(mark) for mark in INSTRUCT.stop if mark in text), default=len(text))]


if __name__ == "__main__":
    main()
