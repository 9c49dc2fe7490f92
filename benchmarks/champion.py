"""Champion against the default LoRA on held-out problems over seeds; duration of a run and of its repeat.

A benchmark that was cut short goes on with ``--from``: rows of earlier seeds are kept as
they are, each with the commit it was measured at.
"""

import argparse
import json
import statistics
from typing import Any

from benchmarks.record import RESULTS, Bench, commit, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--from", type=int, default=0, dest="first", help="first seed to run; keeps the rows before it")
    options = parser.parse_args()
    bench = Bench()
    rows: list[dict[str, Any]] = []
    if options.first:
        earlier = json.loads((RESULTS / "champion.json").read_text())["rows"]
        rows = [row for row in earlier if row["seed"] < options.first]
    for seed in range(options.first, options.seeds):
        seconds, report = bench.evolve(f"seed{seed}", f"seed={seed}")
        again, repeat = bench.evolve(f"seed{seed}", f"seed={seed}") if seed == 0 else (None, None)
        row = {
            "seed": seed,
            "commit": commit(),
            "seconds": round(seconds, 1),
            "repeat_seconds": round(again, 1) if again else None,
            "repeat_counts": repeat["counts"] if repeat else None,
            "counts": report["counts"],
            **{
                name: report[name]["held_out_pass_at_1"]
                for name in ("champion", "default_lora", "base_model", "generation_0_median")
            },
            "gap": report["gaps"]["champion_minus_default_lora"],
        }
        rows.append(row)
        print(row, flush=True)
        _write(rows)


def _write(rows: list[dict[str, Any]]) -> None:
    better = sum(row["champion"] > row["default_lora"] for row in rows)
    gap = statistics.fmean(row["champion"] - row["default_lora"] for row in rows)
    print(f"champion better than default LoRA in {better} of {len(rows)} seeds, mean gap {gap:+.3f}")
    write("champion", {"rows": rows, "better": better, "seeds": len(rows), "mean_gap": gap})


if __name__ == "__main__":
    main()
