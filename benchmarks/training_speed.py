"""Training speed against commit 1f1d1b0, in tokens per CPU second, with the losses of both beside each other.

Both sides train the same adapter on the same pairs with the same seed, each in processes of its own, in turn (old, new, new,
old, ...), so that the load of a shared machine strikes both. The old side runs from an archive of that commit. A process loads the
base model, trains once to warm up (two steps), and then trains for the measurement; the CPU seconds are those that the engine itself
reports in `Cost`, so loading is left out. ``--model`` is repeated for several base models: a name or a folder.

    python -m benchmarks.training_speed --model coral-tiny --model ~/.cache/coral-x/models/smollm2
"""

import argparse
import inspect
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

OLD = "1f1d1b0"
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 8, "alpha": 16, "adapter": "lora", "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "dora": {
        "rank": 8,
        "alpha": 32,
        "adapter": "dora",
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    },
}
RECIPES = {"coral-tiny": {"steps": 60, "warmup": 10, "batch_size": 8}}
LARGE = {"steps": 6, "warmup": 1, "batch_size": 4, "sequence_length": 512}
RATES = {"coral-tiny": 5e-3}


def one_side(request: dict[str, Any]) -> dict[str, Any]:
    """Train with whichever coral_core this process finds, that of 1f1d1b0 included; tokens, CPU seconds, losses."""
    try:
        from coral_core.jobs.jobs import TrainingJob
    except ImportError:  # 1f1d1b0
        from coral_core.jobs import TrainingJob  # type: ignore[attr-defined,no-redef]
    from coral_core.config.tree import BaseModelConfig, ProblemsConfig, TrainingConfig
    from coral_core.genome import HeavyGenes

    try:
        from coral_core.lm.engine import TorchBackend
    except ImportError:
        from coral_core.lm.torch_backend import TorchBackend  # type: ignore[import-not-found,no-redef]

    backend: Any = TorchBackend(BaseModelConfig(name=request["model"]))
    pairs = [tuple(pair) for pair in request["pairs"]]

    def train(recipe: dict[str, Any]) -> Any:
        job = TrainingJob(
            heavy=HeavyGenes.model_validate(request["heavy"]),
            base_model=BaseModelConfig(name=request["model"]),
            base_content_id="benchmark",
            numerics_class="benchmark",
            recipe=TrainingConfig(**recipe),
            recipe_version="benchmark",
            problems=ProblemsConfig(),
            pairs_digest="benchmark",
            prompt_version="benchmark",
            run_seed=0,
        )
        with tempfile.TemporaryDirectory() as folder:
            if len(inspect.signature(backend.train).parameters) > 1:  # 1f1d1b0
                return backend.train(job, pairs, Path(folder))
            from coral_core.lm.requests import TrainingRequest

            return backend.train(TrainingRequest(job=job, pairs=tuple(pairs), out=Path(folder)))

    train(request["recipe"] | {"steps": 2, "warmup": 0})
    trained = train(request["recipe"])
    return {
        "tokens": trained.cost.tokens,
        "cpu_seconds": trained.cost.cpu_seconds,
        "peak_memory_mb": trained.cost.peak_memory_mb,
        "losses": [point.loss for point in trained.losses],
    }


def old_tree(folder: Path, root: Path) -> Path:
    """The files of `OLD` below `folder`."""
    archive = subprocess.run(["git", "archive", OLD], cwd=root, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def run_side(tree: Path, environment: dict[str, str], request: dict[str, Any]) -> dict[str, Any]:
    """`one_side` in a process that imports coral_core from `tree`."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).absolute()), "--side"],
        input=json.dumps(request),
        env=environment | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the side in {tree} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(model: str, adapter: str, pairs: list[list[str]], old: Path, root: Path, rounds: int) -> dict[str, Any]:
    """Both sides in turn; the median of each, their ratio, and the largest difference of a loss."""
    from coral_core.lm.engine_environment import engine_environment

    name = Path(model).name
    request = {
        "model": model,
        "heavy": ADAPTERS[adapter] | {"dropout": 0.0, "learning_rate": RATES.get(name, 1e-3)},
        "recipe": RECIPES.get(name, LARGE),
        "pairs": pairs,
    }
    environment = engine_environment()
    before = {name: value for name, value in environment.items() if name != "GLIBC_TUNABLES"}  # 1f1d1b0 set none
    sides: dict[str, list[dict[str, Any]]] = {"old": [], "new": []}
    for number in range(rounds):
        for side in ("old", "new") if number % 2 == 0 else ("new", "old"):
            found = run_side(old, before, request) if side == "old" else run_side(root, environment, request)
            sides[side].append(found)
            print(
                f"{name} {adapter} {side}: {found['tokens'] / found['cpu_seconds']:.1f} tokens per CPU second",
                flush=True,
            )
    speeds = {
        side: statistics.median(one["tokens"] / one["cpu_seconds"] for one in found) for side, found in sides.items()
    }
    difference = max(abs(a - b) for a, b in zip(sides["old"][0]["losses"], sides["new"][0]["losses"], strict=True))
    return {
        "model": name,
        "adapter": adapter,
        "old_tokens_per_cpu_second": round(speeds["old"], 1),
        "new_tokens_per_cpu_second": round(speeds["new"], 1),
        "ratio": round(speeds["new"] / speeds["old"], 3),
        "largest_loss_difference": difference,
        "peak_memory_mb": {side: round(max(one["peak_memory_mb"] for one in found)) for side, found in sides.items()},
        "rounds": rounds,
        "recipe": request["recipe"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--adapter", action="append", choices=sorted(ADAPTERS), default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-record", action="store_true", help="print only; leave results/ as it is")
    options = parser.parse_args()
    from benchmarks.record import ROOT, write
    from coral_core.config.tree import ProblemsConfig
    from coral_core.jobs.job_content import problem_set
    from coral_core.prompting.templates import INSTRUCT, TINY

    examples = problem_set(ProblemsConfig(pairs=128)).pairs
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        old = old_tree(Path(folder), ROOT)
        for model in options.model or ["coral-tiny"]:
            prompt = TINY if model == "coral-tiny" else INSTRUCT
            pairs = [[prompt.prompt(pair.buggy), prompt.answer(pair.fixed)] for pair in examples]
            for adapter in options.adapter or list(ADAPTERS):
                rows.append(compare(os.path.expanduser(model), adapter, pairs, old, ROOT, options.rounds))
                print(json.dumps(rows[-1]), flush=True)
    if not options.no_record:
        write("training_speed", {"old_commit": OLD, "rows": rows})


if __name__ == "__main__":
    if "--side" in sys.argv:
        print(json.dumps(one_side(json.loads(sys.stdin.read()))))
    else:
        main()
