"""What every benchmark shares: facts about machine and commit, and where a result goes."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from coral_core.lm.base_model import _cpu_name
from coral_core.runs.run_folder import versions

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "configs" / "quickstart.yaml"


def commit() -> str:
    """Hash of HEAD, with ``+changes`` when what runs differs from it."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "coral_core", "flows"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    return head + ("+changes" if changed.strip() else "")


def write(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write ``results/<name>.json`` with versions, machine, load and commit; into `folder` where another is given."""
    facts = {
        "benchmark": name,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "machine": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "platform": platform.platform(),
            "load": os.getloadavg(),
        },
        "versions": versions(),
        **result,
    }
    path = folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"written to {path}")
    return path


class Bench:
    """A scratch place for runs of the `coral` command with a home, a store and a runs folder of their own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="coral-bench-"))
        self.environment = {
            **os.environ,
            "CORAL_HOME": str(self.folder / "home"),
            "CORAL_ROOTS": str(self.folder),  # where workers of `coral up` let stores lie
        }
        self.environment.pop("PREFECT_API_URL", None)

    def command(self, runs: str, *overrides: str, config: Path = QUICKSTART) -> list[str]:
        base = self.folder / runs
        settings = [f"runs={base}", f"store.path={base}/store", *overrides]
        return [
            sys.executable,
            "-m",
            "flows.cli",
            "evolve",
            str(config),
            *(part for item in settings for part in ("--set", item)),
        ]

    def evolve(
        self, runs: str, *overrides: str, environment: dict[str, str] | None = None
    ) -> tuple[float, dict[str, Any]]:
        """Seconds of the whole command, and its report. Raises `CalledProcessError`."""
        started = time.perf_counter()
        subprocess.run(
            self.command(runs, *overrides),
            env=self.environment | (environment or {}),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - started
        return seconds, json.loads((self.run_folder(runs) / "report.json").read_text())

    def run_folder(self, runs: str) -> Path:
        return next(path.parent for path in (self.folder / runs).glob("*/run.json"))

    def history(self, runs: str) -> bytes:
        return (self.run_folder(runs) / "history.jsonl").read_bytes()

    def trainings(self, runs: str) -> list[str]:
        """Digest of every training that was really done, by any session."""
        lines = (self.run_folder(runs) / "timings.jsonl").read_text().splitlines()
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue  # cut by a kill
        return [row["digest"] for row in rows if row.get("kind") in ("training", "evaluation") and not row["cached"]]
