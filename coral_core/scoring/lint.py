"""Style and security findings for a batch of patches: ruff once, bandit in this process.

Both are pinned, because their rules are part of the objectives. A patch's findings
depend on its own text alone, never on what else is in the batch. Comments that switch a
linter off (noqa, nosec) count for nothing: a search would learn to write them.
"""

import json
import logging
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from coral_core.errors import JudgeError
from coral_core.frozen import Frozen
from coral_core.syntax import TRIES, parsing

RULES = "E,W,F,B,C4,SIM,PIE,RET,UP,PERF"
IGNORED = "E501,W292,E741,RET503"
SECONDS = 120


class Findings(Frozen):
    """What the linters say of one patch."""

    style: int
    security_low: int
    security_medium: int
    security_high: int
    lines: int


def findings(patches: Sequence[str]) -> dict[str, Findings]:
    """Findings per distinct patch. Raises `JudgeError` when a linter itself fails."""
    distinct = [patch for patch in dict.fromkeys(patches) if _writable(patch)]
    if not distinct:
        return {}
    with tempfile.TemporaryDirectory(prefix="coral-lint-") as folder:
        files = {f"p{number:06d}.py": patch for number, patch in enumerate(distinct)}
        for name, patch in files.items():
            (Path(folder) / name).write_text(patch.rstrip() + "\n", encoding="utf-8")
        style = _ruff(folder)
        security = _bandit(folder, list(files))
    return {
        patch: Findings(
            style=style.get(name, 0),
            security_low=security.get((name, "LOW"), 0),
            security_medium=security.get((name, "MEDIUM"), 0),
            security_high=security.get((name, "HIGH"), 0),
            lines=max(1, sum(1 for line in patch.splitlines() if line.strip())),
        )
        for name, patch in files.items()
    }


def _writable(patch: str) -> bool:
    try:
        patch.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in patch


def _ruff(folder: str) -> dict[str, int]:
    """Number of violations per file name."""
    from ruff import find_ruff_bin  # type: ignore[import-untyped]

    command = [
        find_ruff_bin(),
        "check",
        "--isolated",
        "--no-cache",
        "--quiet",
        "--ignore-noqa",
        "--select",
        RULES,
        "--ignore",
        IGNORED,
    ]
    command += ["--target-version", "py311", "--output-format", "json", "--exit-zero", folder]
    try:
        reply = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env={"PATH": os.defpath})
        rows = json.loads(reply.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise JudgeError(f"ruff failed: {error}. Is the pinned version installed? pip install ruff==0.17.6") from None
    counts: dict[str, int] = {}
    for row in rows:
        name = Path(row["filename"]).name
        counts[name] = counts.get(name, 0) + 1
    return counts


def _bandit(folder: str, names: Sequence[str]) -> dict[tuple[str, str], int]:
    """Number of issues per (file name, severity)."""
    for noisy in ("bandit", "stevedore"):  # the second, on import, says ERROR of output formats that are not installed
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    from bandit.core.config import BanditConfig
    from bandit.core.manager import BanditManager

    counts: dict[tuple[str, str], int] = {}
    left = list(names)
    for _ in range(TRIES):
        manager = BanditManager(BanditConfig(), "file", quiet=True, ignore_nosec=True)
        manager.discover_files([str(Path(folder) / name) for name in left])
        with parsing():
            manager.run_tests()
        for issue in manager.get_issue_list():
            key = (Path(issue.fname).name, str(issue.severity))
            counts[key] = counts.get(key, 0) + 1
        # a file that bandit stumbles over by chance (coral_core/syntax.py) must not pass for a clean one
        left = [Path(name).name for name, reason in manager.get_skipped() if "exception" in reason]
        if not left:
            break
    return counts
