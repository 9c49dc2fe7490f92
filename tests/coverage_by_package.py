"""Prints which share of the lines of each package the last `pytest --cov` executed."""

import json
import subprocess
import sys
from collections import Counter

FIELDS = ("num_statements", "covered_lines")


def main() -> None:
    report = subprocess.run(
        [sys.executable, "-m", "coverage", "json", "-q", "-o", "/dev/stdout"], stdout=subprocess.PIPE, check=True
    )
    lines: Counter[tuple[str, str]] = Counter()
    for file, found in json.loads(report.stdout)["files"].items():
        parts = file.split("/")
        for package in {"/".join(parts[:2]) if len(parts) > 2 else f"{parts[0]}/*.py", f"{parts[0]} in all"}:
            for field in FIELDS:
                lines[package, field] += found["summary"][field]
    share = {
        package: lines[package, "covered_lines"] / lines[package, "num_statements"]
        for package, _ in lines
        if lines[package, "num_statements"]
    }
    for package in sorted(share, key=lambda name: -share[name]):
        print(f"{share[package]:6.1%}  {lines[package, 'num_statements']:6} lines  {package}")


if __name__ == "__main__":
    main()
