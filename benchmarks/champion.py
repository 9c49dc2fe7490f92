"""Champion against default LoRA on held-out problems over seeds; run time; cost of a repeat."""

import argparse
import statistics
from typing import Any

from benchmarks.record import Bench, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    bench = Bench()
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        seconds, report = bench.evolve(f"seed{seed}", f"seed={seed}")
        again, repeat = bench.evolve(f"seed{seed}", f"seed={seed}") if seed == 0 else (None, None)
        row = {
            "seed": seed,
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
    better = sum(row["champion"] > row["default_lora"] for row in rows)
    gaps = [row["champion"] - row["default_lora"] for row in rows]
    print(f"champion better than default LoRA in {better} of {len(rows)} seeds, mean gap {statistics.fmean(gaps):+.3f}")
    write("champion", {"rows": rows, "better": better, "seeds": len(rows), "mean_gap": statistics.fmean(gaps)})


if __name__ == "__main__":
    main()
