"""`coral init --from DIR` over twenty public packages: crashes, tests kept, functions usable with the reasons of the rest, time.

    python -m benchmarks.own_packages --fetch            # also: make own-packages; sdists and an environment, below data/
    python -m benchmarks.own_packages [--only NAME ...]  # measure what has been fetched

Each package is measured in processes of its own: its tests as its authors run them (``python -m pytest`` in a copy), then
`coral init`, which runs them again under observation and makes bugs. It writes a configuration for coral-tiny, and then, from the
same recording, one for SmolLM2, which has room for longer functions. Nothing that is fetched is committed.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.record import ROOT, write
from coral_core.config.cache_folder import cache_folder
from coral_core.problem_sources.package.cache import Recording, recording_of
from coral_core.problem_sources.package.project_copy import copy_project

FOLDER = ROOT / "data" / "own_packages"
PYTHON = FOLDER / "environment" / "bin" / "python"
PACKAGES = (
    "toolz", "inflection", "num2words", "tabulate", "natsort", "humanize", "boltons", "more-itertools", "packaging", "pyparsing",
    "python-slugify", "roman", "textdistance", "sortedcontainers", "intervaltree", "cachetools", "semver", "parse", "isodate", "webcolors",
)  # fmt: skip
TEST_REQUIREMENTS = (
    "pytest", "pytest-cov", "pytest-mock", "pytest-xdist", "pytest-timeout", "hypothesis", "freezegun", "delegator.py", "pretend", "numpy", "text-unidecode",
)  # fmt: skip
"""What the packages' tests import."""
SECONDS = 3_600
CORAL = [sys.executable, "-m", "flows.cli"]


def fetch(names: Sequence[str]) -> None:
    """Download the sdists, unpack them, and make an environment in which their tests run."""
    archives, sources = FOLDER / "archives", FOLDER / "sources"
    for folder in (archives, sources):
        folder.mkdir(parents=True, exist_ok=True)
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", FOLDER / "environment"], check=True)
        subprocess.run([str(PYTHON), "-m", "pip", "install", "-q", *TEST_REQUIREMENTS], check=True)
    for name in names:
        if source_of(name) is not None:
            continue
        pip = [str(PYTHON), "-m", "pip"]
        command = [*pip, "download", "-q", "--no-deps", "--no-binary", name, "-d", str(archives), name]
        if subprocess.run(command, check=False).returncode:
            print(f"{name}: cannot be fetched", flush=True)
            continue
        archive = max(archives.glob(f"{re.sub('[-_.]', '?', name)}-*.tar.gz"), key=lambda path: path.stat().st_mtime)
        with tarfile.open(archive) as packed:
            packed.extractall(sources, filter="data")
        subprocess.run([*pip, "install", "-q", str(archive)], check=False)
        print(f"{name}: {archive.name}", flush=True)


def source_of(name: str) -> Path | None:
    """The unpacked sdist of a package; None when it has not been fetched."""
    found = sorted((FOLDER / "sources").glob(f"{re.sub('[-_.]', '?', name)}-[0-9]*"))
    return found[-1] if found else None


def plain(source: Path, scratch: Path) -> dict[str, Any]:
    """Run a package's tests without CORAL-X: names of those that pass, and the time."""
    copy = scratch / "plain" / source.name
    copy_project(source, copy)
    report = scratch / "junit.xml"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(path) for path in (copy, copy / "src") if path.is_dir()),
        "PYTHONHASHSEED": "0",
    }
    command = [str(PYTHON), "-m", "pytest", "-q", f"--junitxml={report}", "-o", "junit_family=xunit1", "--maxfail=0"]
    times = _timed(command, copy, environment, scratch / "plain.txt")
    passed = []
    if report.exists():
        for case in ElementTree.parse(report).iter("testcase"):
            if not any(child.tag in ("failure", "error", "skipped") for child in case):
                passed.append(f"{case.get('classname')}::{case.get('name')}")
    return {"passed": sorted(passed), **times}


def initialised(source: Path, scratch: Path) -> dict[str, Any]:
    """Run `coral init --from` on a package: how it ended, whether its configurations pass, and the time of the first call."""
    environment = {**os.environ, "CORAL_HOME": str(scratch / "home")}
    configurations, times = {}, {}
    for model in ("coral-tiny", "smollm2"):
        file, output = scratch / f"{model}.yaml", scratch / f"{model}.txt"
        options = ["--from", str(source), "--python", str(PYTHON), "--base-model", model]
        times[model] = _timed([*CORAL, "init", str(file), *options], ROOT, environment, output)
        check = [*CORAL, "config", "check", str(file)]
        configurations[model] = (
            file.exists() and not subprocess.run(check, cwd=ROOT, env=environment, capture_output=True).returncode
        )
    text = "".join((scratch / f"{model}.txt").read_text(errors="replace") for model in times)
    codes = [each["exit_code"] for each in times.values()]
    return {
        "crashed": any(code in (70, 1) or code < 0 for code in codes) or "Traceback (most recent call last)" in text,
        "configuration": configurations,
        "refused": [line[:300] for line in text.splitlines() if line.startswith("error: ")],
        **times["coral-tiny"],
    }


def measure(name: str, scratch: Path, models: Path) -> dict[str, Any]:
    """The row of one package; `models` is the folder of fetched base models."""
    source = source_of(name)
    if source is None:
        return {"package": name, "fetched": False}
    (scratch / "home").mkdir()
    (scratch / "home" / "models").symlink_to(models)
    alone, init = plain(source, scratch), initialised(source, scratch)
    os.environ["CORAL_HOME"] = str(scratch / "home")
    row: dict[str, Any] = {"package": name, "version": source.name.rpartition("-")[2], "fetched": True}
    try:
        recording = recording_of(str(source), str(PYTHON))
    except Exception as error:
        return {**row, "init": init, "plain": len(alone["passed"]), "error": str(error)}
    lost = lost_tests(alone["passed"], recording.tests)
    return {
        **row,
        "tests": {"plain": len(alone["passed"]), "recorded": len(alone["passed"]) - len(lost), "lost": lost[:20]},
        **functions(recording),
        "seconds": {"plain": alone["wall"], "init": init["wall"]},
        "cpu_seconds": {"plain": alone["cpu"], "init": init["cpu"]},
        "init": init,
        "notes": recording.notes[:10],
    }


def lost_tests(plainly: Sequence[str], outcomes: Mapping[str, str]) -> list[str]:
    """Tests that pass plainly (names of pytest's XML report) and not under recording (outcomes by pytest id)."""
    recorded = {_junit_name(test) for test, outcome in outcomes.items() if outcome == "passed"}
    return [test for test in plainly if test not in recorded]


def functions(recording: Recording) -> dict[str, Any]:
    """How many functions tests cover, how many of those with recordable values are usable, and why the others are not."""
    usable = {item.definition.key for item in recording.usable}
    reasons = Counter(_kind(item.reason) for item in recording.refused if recording.calls.get(item.key))
    outside = Counter(
        _kind(max(why, key=lambda reason: why[reason]))
        for key, why in recording.unrecorded.items()
        if not recording.calls.get(key)
    )
    recordable = sum(1 for count in recording.calls.values() if count)
    return {
        "functions": len(recording.usable) + len(recording.refused),
        "covered": len({*recording.calls, *recording.unrecorded}),
        "recordable": recordable,
        "usable": len(usable),
        "bugs": sum(len(item.bugs) for item in recording.usable),
        "share": round(len(usable) / recordable, 3) if recordable else None,
        "unusable_because": dict(reasons.most_common()),
        "unrecordable_because": dict(outside.most_common(12)),
    }


def _kind(reason: str) -> str:
    """A reason without what belongs to one function only."""
    if reason.startswith("outside the value language"):
        return re.sub(r" \(\d+ calls\)", "", reason)[:100]
    return re.split(r"[:(]", re.sub(r"\d+", "N", reason))[0].strip()[:80]


def _junit_name(test: str) -> str:
    """The name that pytest's XML report gives a test."""
    path, *parts = test.split("::")
    if "[" in test:  # parameters may hold the separator
        head, _, rest = test.partition("[")
        path, *parts = head.split("::")
        parts[-1] += f"[{rest}"
    return f"{'.'.join([path.removesuffix('.py').replace('/', '.'), *parts[:-1]])}::{parts[-1] if parts else ''}"


def _timed(command: list[str], folder: Path, environment: dict[str, str], output: Path) -> dict[str, Any]:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with output.open("wb") as stream:
        try:
            code = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -9
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"exit_code": code, "wall": round(time.monotonic() - started, 1), "cpu": round(cpu, 1)}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers over all packages that were measured whole."""
    whole = [row for row in rows if "tests" in row]
    recordable, usable = sum(row["recordable"] for row in whole), sum(row["usable"] for row in whole)
    return {
        "packages": len(whole),
        "crashes": sum(row["init"]["crashed"] for row in rows if "init" in row),
        "packages_that_lose_tests": [row["package"] for row in whole if row["tests"]["lost"]],
        "configurations": {
            model: sum(row["init"]["configuration"][model] for row in whole) for model in ("coral-tiny", "smollm2")
        },
        "recordable": recordable,
        "usable": usable,
        "share": round(usable / recordable, 3) if recordable else None,
        "over_time": [row["package"] for row in whole if row["seconds"]["init"] > 5 * row["seconds"]["plain"] + 60],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fetch", action="store_true", help="download what is missing instead of measuring")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the packages; prints, and writes no result")
    options = parser.parse_args()
    names = options.only or PACKAGES
    if options.fetch:
        fetch(names)
        return
    rows, models = [], cache_folder("models")
    for name in names:
        # outside this repository: pytest would take its configuration for that of a package without one
        with tempfile.TemporaryDirectory(prefix="coral-own-packages-") as scratch:
            rows.append(measure(name, Path(scratch), models))
        print(json.dumps(rows[-1]), flush=True)
    result = {"summary": summary(rows), "packages": rows}
    print(json.dumps(result["summary"], indent=1))
    if not options.only:
        write("own_packages", result)


if __name__ == "__main__":
    main()
