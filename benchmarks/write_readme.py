"""Write `benchmarks/README.md` from the results that are committed in `benchmarks/results/`.

    python -m benchmarks.write_readme            # rewrite the page (also: make docs)
    python -m benchmarks.write_readme --check    # exit 1 if the page is out of date

The description of each program is the first line of its docstring. No number of the page is typed by hand.
"""

import ast
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.quickstart_cost import mean_interval
from benchmarks.record import RESULTS
from coral_core.report.wording import NAMES

FOLDER = Path(__file__).parent
PAGE = FOLDER / "README.md"
NOT_MEASURING = {"__init__", "architectures", "gene_table", "gene_table_page", "record", "write_readme"}

HEAD = """# Benchmarks

Every number that this project claims is measured by a program in this folder. A program prints a table and writes one
JSON file to `results/` with the versions, the machine, its load and the commit. Where it compares two systems, it
measures both in the same process or session. Run one by its module name: `.venv/bin/python -m benchmarks.champion`.

This page is generated from the JSON files: `make docs`. The quickstart's base model is the embedded coral-tiny (0.9
million parameters), all measurements were made on 2 shared CPU cores, and work pools ran as processes on one machine.
[Gene tables](tables/README.md) hold results of real trainings on which search strategies are played.
"""

OPEN = """## Open and unproven

- **Age.** Each result names its commit. What was measured before 2026-11-28 was made with engine 1, recipe 1 and judges
  before 6. The quickstart of today is in `live_search`; `quickstart_cost` and `finalists` are of before its first generation began with usual
  LoRAs, `champion` and `gene_landscape` of before it trained adapters further.
- **Evolution against random search, live.** Better on gene tables (`search`), and on coral-tiny, where it trains the best adapters further
  (`live_search`). On SmolLM2, at equal trainings and without training further, its champions repair 195 of 456 held-out bugs in three seeds,
  those of random search 183: in no seed a difference that can be told from chance (`real_model`; two of the seeds with an earlier evolution).
- **Evolution against a good LoRA that is trained as often.** On coral-tiny the champion repairs more than the best of 16 usual LoRAs, trained as often as
  it, in 17 of 20 seeds, by 3.7 points in the median (`live_search`). It begins with three of these LoRAs; before it did, it repaired less in 13 of 17
  seeds. On SmolLM2 this was not compared.
- **How much of that is luck.** A table has two replicates of each cell, and a finalist has seen both, so the mean by which its
  champion is valued is also what it was chosen by. Without finalists, and valued by the replicate that it was not chosen by, evolution's
  champion is better than random's on the first table and not distinguishable on the second (`search`): there few cells decide, and
  one replicate of each is a small sample. Fresh data: live runs.
- **Cellular automaton.** Worse than Sobol points in the first generation, and so off by default (`search`, rows "automata").
- **Real code models.** SmolLM2-135M was searched in three seeds, on generated functions; its champions repair 1 or 2 of QuixBugs' 16
  held-out programs. No search with CodeLlama has been run; coral-tiny repairs none of QuixBugs.
- **GPUs.** No result here was measured on a GPU; `gpu_engine` is prepared for one (7B shape: speed of batches, planned memory). Device requests for Docker are built and inspected, not executed.
- **Kubernetes.** Manifests are validated against the schemas of Kubernetes; no cluster has run them.
- **arm64.** The judge's seccomp filter for arm64 is written and untested.
"""

Result = dict[str, Any]
Rows = list[tuple[str, str]]


def _three(value: float) -> str:
    """A share with three digits: `.369`."""
    return f"{value:.3f}".removeprefix("0")


def _mean(rows: list[Result], key: str) -> float:
    return sum(float(row[key]) for row in rows) / len(rows)


def _artifacts(r: Result) -> Rows:
    wall = r["wall_milliseconds_per_job"]
    return [
        ("artifacts, API calls per finished job (jobs of milliseconds)", f"{r['calls_per_job']:.2f}"),
        ("artifacts, time per finished job", f"{r['milliseconds_per_job']:.0f} ms"),
        ("wall clock per job with and without artifacts", f"{wall['with']:.0f} ms, {wall['without']:.0f} ms"),
    ]


def _base_checksum(r: Result) -> Rows:
    def shares(model: Result) -> str:
        share, seconds = model["share_of_job"], model["checksum_seconds"]
        return f"{share['training']:.2%} of a training, {share['evaluation']:.2%} of an evaluation ({1000 * seconds:.0f} ms)"

    return [
        ("checksum of the base model after each job, coral-tiny", shares(r["coral_tiny"])),
        ("the same, 135 million parameters in float32, training of 10 steps", shares(r["llama_135m"])),
    ]


def _training_speed(r: Result) -> Rows:
    return [
        (
            f"training of {row['model']} ({row['adapter']}), tokens per CPU second, against {r['old_commit']}",
            f"{row['new_tokens_per_cpu_second']:.0f}, {row['old_tokens_per_cpu_second']:.0f}: {row['ratio']:.2f} times; "
            f"losses differ by at most {row['largest_loss_difference']:.0e}",
        )
        for row in r["rows"]
    ]


def _dora_cost(r: Result) -> Rows:
    return [
        (
            f"training of {row['model']}, dropout {row['dropout']:g}, rank 8 on all modules: CPU seconds per token, DoRA over LoRA",
            f"{row['ratio']:.2f} times ({row['rounds']} trainings each)",
        )
        for row in r["rows"]
    ]


def _planned_memory(r: Result) -> Rows:
    ratios = [row["planned_over_measured"] for row in r["rows"]]
    return [
        (
            f"planned over measured peak memory, {len(ratios)} engine processes",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
        )
    ]


def _gpu_engine(r: Result) -> Rows:
    return [
        (
            f"generation of a 7B shape on {r['device']}, {r['rows']} prompts together over one by one",
            f"{r['batched_over_one_by_one']:.1f} times",
        ),
        *(
            (f"planned over allocated device memory, {kind}", f"{memory['ratio']:.2f}")
            for kind, memory in r.get("memory", {}).items()
        ),
    ]


def _vllm_engine(r: Result) -> Rows:
    ours, theirs = r["torch"], r["vllm"]
    return [
        (
            f"tokens per CPU second, torch engine and vLLM, {r['model']} in {r['dtype']}, {r['prompts']} prompts, one LoRA",
            f"{ours['tokens_per_cpu_second']:.1f}, {theirs['tokens_per_cpu_second']:.1f} (ratio {r['torch_over_vllm']:.2f}); "
            f"{r['equal_texts']} texts equal",
        )
    ]


def _overlap(r: Result) -> Rows:
    def seconds(engine: Result) -> str:
        without, beside = engine["without"], engine["with"]
        return (
            f"{beside['seconds']:.1f} s, {without['seconds']:.1f} s (ratio {engine['ratio']:.2f}); "
            f"{beside['waiting_for_judge']:.1%}, {without['waiting_for_judge']:.1%} of it waiting for the judge"
        )

    return [
        (
            f"evaluation with and without overlap, {r['coral_tiny']['problems']} problems, coral-tiny",
            seconds(r["coral_tiny"]),
        ),
        (
            f"the same, an engine that leaves the cores to the judge for {r['rehearsal_seconds']:.0f} s",
            seconds(r["rehearsal"]),
        ),
    ]


def _budget(r: Result) -> Rows:
    rows = []
    for key, name in (("undisturbed", "undisturbed"), ("killed", f"killed {r['killed']['kills']} times")):
        one = r[key]
        spent = f"{one['spent_in_the_end']:.1f} s ({one['over_the_limit']:+.1%})"
        rows.append(
            (
                f"limit of {one['limit_seconds']:.0f} lane seconds, {name}",
                f"{spent}; {one['began_after_the_limit']} jobs started after the limit",
            )
        )
    return rows


def _champion(r: Result) -> Rows:
    rows = r["rows"]
    seconds = sorted(row["seconds"] for row in rows)
    significant = sum(row["gap"]["p_value"] < 0.05 for row in rows)
    repeat = next(row for row in rows if row["repeat_seconds"] is not None)
    return [
        (
            f"held-out pass@1 of the champion, {rows[0]['gap']['bugs']} sealed bugs, mean of {r['seeds']} seeds",
            _three(_mean(rows, "champion")),
        ),
        (
            "the same for default LoRA, median of generation 0, bare base model",
            ", ".join(_three(_mean(rows, key)) for key in ("default_lora", "generation_0_median", "base_model")),
        ),
        (
            "champion minus default LoRA",
            f"+{_three(r['mean_gap'])}; better in {r['better']} of {r['seeds']} seeds, "
            f"p < .05 in {significant} (paired sign test)",
        ),
        ("duration of one run", f"{seconds[0] / 60:.1f} to {seconds[-1] / 60:.1f} minutes"),
        (
            "the same run again",
            f"{repeat['repeat_seconds']:.1f} s, {repeat['repeat_counts']['trainings']} trainings, "
            f"{repeat['repeat_counts']['evaluations']} evaluations",
        ),
    ]


def _configuration(r: Result) -> Rows:
    mutated = r["mutated"]
    return [
        *(
            (
                f"`{command}` of production.yaml, processor time",
                f"{r[key]['cpu_best']:.2f} s (wall clock {r[key]['wall_median']:.1f} s)",
            )
            for command, key in (("config check", "production_check"), ("evolve --dry-run", "production_dry_run"))
        ),
        (
            f"{mutated['mutations']:,} mutated configurations",
            f"{mutated['accepted']} accepted, {mutated['refused']:,} refused, {mutated['bugs']} reported as a bug; "
            f"slowest {mutated['slowest_cpu_seconds']} s of processor time",
        ),
    ]


def _search_overhead(r: Result) -> Rows:
    return [
        (
            f"{name}, population {row['population']:,}",
            f"{row['worst_ms_per_genome']:.2f} ms per genome in the slowest generation (goal without models {r['goal_ms']:g}); "
            f"{100 * row['share_of_a_training']:.2f} % of a training (goal with models {100 * r['goal_share']:g})",
        )
        for name, row in r["strategies"].items()
    ]


def _dead_worker(r: Result) -> Rows:
    kills = r["kills"]
    return [
        (
            f"worker killed (SIGKILL), until `coral health` fails, worst of {len(kills)}",
            f"{max(kill['seconds_to_red_in_health'] for kill in kills):.0f} s",
        ),
        ("until `coral doctor` fails", f"{r['worst']['red']:.0f} s"),
        ("until the Prefect UI says OFFLINE", f"{r['worst']['offline']:.0f} s"),
    ]


def _first_run(r: Result) -> Rows:
    return [
        ("`coral up` to the finished quickstart on work pools", f"{r['up_to_finished_seconds']:.0f} s"),
        (
            "of which: installation; until the first job starts",
            f"{r['up_seconds']:.0f} s; {r['pools']['until_first_job']:.0f} s",
        ),
        (
            "quickstart with local lanes, server start included",
            f"{r['local']['seconds']:.0f} s; {'same history' if r['same_history'] else 'other history'}",
        ),
        ("lower bound: processor time of the jobs / cores", f"{r['pools']['least_seconds']:.0f} s"),
    ]


def _gene_landscape(r: Result) -> Rows:
    settings = r["settings"]
    return [
        (f"pass@1 on fitness bugs, {name}, mean of {r['seeds']} seeds", _three(settings[key]["mean"]))
        for name, key in (
            ("rank 16 on all modules", "r16 all"),
            ("default LoRA (rank 8 on q, k, v, o)", "default LoRA (r8 qkvo)"),
            ("rank 1 on q", "r1 q"),
            ("bare base model", "base"),
        )
    ]


def _invariance(r: Result) -> Rows:
    seeds, lanes = ({row[key] for row in r["rows"]} for key in ("hash_seed", "lanes"))
    return [
        (
            f"distinct histories over {len(seeds)} values of PYTHONHASHSEED × {len(lanes)} numbers of lanes",
            str(r["distinct_histories"]),
        )
    ]


def _judge(r: Result) -> Rows:
    speed, steady = r["speed"], r["steady"]
    children = speed["children_per_second"]
    different = sum(steady["different_verdicts"])
    return [
        (
            "verdicts per second, two zygotes; with namespaces",
            f"{children['base_layers']:.0f}; {children['with_namespaces']:.0f}",
        ),
        (
            "speed against `subprocess.run` per test case",
            f"{speed['ratio_per_patch']:.0f} times as many patches, {speed['ratio_per_child']:.1f} times as many processes per second",
        ),
        (
            f"{steady['patches']:,} patches in order, shuffled, and on a machine with every core busy",
            f"{different} different verdicts, {'equal' if steady['same_scores'] else 'different'} scores",
        ),
        ("ruff and bandit per patch, batch of 200", f"{r['lint']['ms_per_patch']:.2f} ms"),
        (
            "memory growth over 10,000 patches",
            f"{round(r['memory']['growth_mb'], 1) + 0.0:.1f} MB",
        ),  # + 0.0: no minus before 0
    ]


def _kills(r: Result) -> Rows:
    early = sum(not kill["run_had_finished"] for kill in r["kills"])
    return [
        (
            f"run killed (SIGKILL) at {len(r['kills'])} seeded times and restarted",
            f"{r['repeated']} of {r['jobs']} jobs repeated, history {'identical' if r['identical'] else 'different'}; "
            f"{early} kills hit an unfinished run",
        )
    ]


def _lanes(r: Result) -> Rows:
    return [
        (
            "makespan of a generation over (best schedule + one lane start)",
            f"{r['makespan_over_best_plus_lane_start']:.3f}",
        ),
        (
            "evaluations started before the last training ended",
            f"{r['lanes']['evaluations_before_last_training_ended']:.0%}",
        ),
        ("overhead per job in a warm lane", f"{1000 * r['overhead_seconds_per_job']:.0f} ms"),
        ("lane starts in 4 generations", str(sum(r["lane_starts_of_4_generations"].values()))),
        (
            "time lost by a killed lane, beyond its job and one lane start",
            f"{max(0.0, r['lost_by_the_kill_beyond_job_and_lane_start']):.1f} s",
        ),
        (
            "one flow run per job, times slower: nothing to load; model of "
            f"{r['with_model_load']['load_seconds']:.0f} s; the same with Prefect's default polling",
            f"{r['flow_run_per_job']['times_slower']:.1f}; {r['with_model_load']['times_slower']:.1f}; "
            f"{r['with_model_load_and_default_polling']['times_slower']:.1f}",
        ),
    ]


def _long_run(r: Result) -> Rows:
    memory = r["resident_mb"]
    return [
        (
            f"{r['generations']} generations of {r['population']}, Prefect database per genome",
            f"{r['database_bytes_per_genome'] / 1000:.1f} kB, {r['task_runs_per_genome']:.2f} task runs",
        ),
        (
            "memory of the control process in the second, middle and last tenth",
            ", ".join(f"{memory[key]:.0f}" for key in ("start", "middle", "end")) + " MB",
        ),
    ]


def _many_genomes(r: Result) -> Rows:
    counts = r["counts"]
    return [
        (
            f"{r['genomes']} genomes on work pools, Postgres, jobs without length "
            f"({counts['trainings']} trainings, {counts['evaluations']} evaluations)",
            f"{r['seconds_per_genome']:.2f} s a genome, {len(r['errors'])} errors in any log",
        ),
        (
            "lane starts; most threads; database per genome",
            f"{sum(r['lane_starts'].values())}; {r['threads']['most']}; {r['database_bytes_per_genome'] / 1000:.1f} kB",
        ),
    ]


def _orchestration(r: Result) -> Rows:
    return [(f"wall clock per genome, {r['genomes']} genomes, jobs without length", f"{r['seconds_per_genome']:.2f} s")]


def _status(r: Result) -> Rows:
    return [
        (
            f"`coral status`, server with {sum(r['flow_runs'].values()):,} flow runs; empty server",
            f"{r['many_flow_runs']['seconds']['median']:.2f} s; {r['empty']['seconds']['median']:.2f} s",
        ),
        (
            "the same with 10 runs of 200 generations and thousands of store entries",
            f"{r['many_of_everything']['seconds']['median']:.2f} s",
        ),
    ]


def _real_model(r: Result) -> Rows:
    rows = []
    for seed in r["seeds"]:
        missing = f" (missing: {', '.join(seed['missing'])})" if seed["missing"] else ""
        shares = ", ".join(
            "–" if seed[key] is None else _three(seed[key])
            for key in ("champion", "tuned_lora", "default_lora", "random_best", "base")
        )
        rows.append(
            (
                f"seed {seed['seed']}, {seed['held_out']} held-out bugs: champion, tuned LoRA, default LoRA, best of random "
                f"search, bare model{missing}",
                shares,
            )
        )
        if seed["gaps"].get("champion_minus_random"):
            parts = [
                f"{_three(low)} to {_three(high)}"
                for low, high in (seed["interval"]["champion"], seed["interval"]["random_best"])
            ]
            gap = seed["gaps"]["champion_minus_random"]
            low, high = gap["interval"]
            parts.append(f"{gap['difference']:+.3f} ({low:+.3f} to {high:+.3f})")
            rows.append(
                (
                    f"seed {seed['seed']}, 95 % intervals: champion; best of random search; their difference",
                    "; ".join(parts),
                )
            )
        tests = {key: seed[f"p_vs_{key}"] for key in ("default", "tuned", "random") if seed[f"p_vs_{key}"] is not None}
        rows.append(
            (f"seed {seed['seed']}: p of the champion", ", ".join(f"{key} {p:.2g}" for key, p in tests.items()))
        )
        if table := seed.get("trained"):  # fittest first
            shares = ", ".join(_three(table[place]["fitness"]) for place in (0, len(table) // 2, -1))
            rows.append(
                (
                    f"seed {seed['seed']}: fitness of its {len(table)} adapters, whose genes and scores are in the JSON: best, median, worst",
                    shares,
                )
            )
        rows.append((f"seed {seed['seed']}: CPU time", f"{seed['cpu_seconds'] / 60:.0f} minutes"))
        if programs := seed["quixbugs"]:
            low, high = programs["interval"]["champion"]
            repaired = (
                f"{programs['repaired']['champion']} (95 % interval of the share {_three(low)} to {_three(high)})"
            )
            rows.append(
                (f"seed {seed['seed']}: repaired of QuixBugs' {programs['held_out']} held-out programs", repaired)
            )
    return rows


def _quickstart_cost(r: Result) -> Rows:
    seeds, bugs = len(r["rows"]), r["rows"][0]["bugs"]
    rows = [
        (f"CPU seconds of lane work, this commit over {r['against'][:7]}, seeds: {seeds}", f"{r['ratio']:.2f}"),
        (f"champion's held-out share of {bugs} bugs, difference", f"{r['difference']:+.3f}"),
    ]
    shares = {
        "champion": [row.get("champion", {}).get("new") for row in r["rows"]],
        "LoRA trained as often (where the champion was trained more than once)": [
            row.get("longer_lora") for row in r["rows"]
        ],
        "default LoRA": [row.get("default_lora", {}).get("new") for row in r["rows"]],
        "bare model": [row.get("base_model") for row in r["rows"]],
    }
    for name, values in shares.items():
        if known := [value for value in values if value is not None]:
            rows.append(
                (
                    f"held-out share, this commit, mean over {len(known)} of them: {name}",
                    _three(sum(known) / len(known)),
                )
            )
    both = [(row["champion"]["new"], row["longer_lora"]) for row in r["rows"] if row.get("longer_lora") is not None]
    if both:
        differences = [champion - longer for champion, longer in both]
        interval = mean_interval(differences)
        better, worse = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
        rows.append(
            (
                f"champion, and LoRA trained as often, in the {len(both)} seeds that have both: {better} better, {worse} worse",
                f"{_three(statistics.fmean(champion for champion, _ in both))}, {_three(statistics.fmean(longer for _, longer in both))}; "
                f"difference {statistics.fmean(differences):+.3f}"
                + (f" (95 % interval over seeds {interval[0]:+.3f} to {interval[1]:+.3f})" if interval else ""),
            )
        )
    for key, what in (("interval_by_seed", "over seeds"), ("interval_by_bug", "over bugs")):
        if r[key] is not None:
            rows.append((f"95 % interval of the difference, {what}", f"{r[key][0]:+.3f} to {r[key][1]:+.3f}"))
    return rows


def _evaluation_speed(r: Result) -> Rows:
    rows = []
    for name, side in r["sides"].items():
        text = f"{side['tokens_per_cpu_second']:.0f}; {side['ratio']:.2f} times; {side['equal_texts']:.0%} equal texts; pass@1 {_three(side['pass_at_1'])}"
        rows.append((f"tokens per CPU second, {name}, {r['settings']['prompts']} prompts", text))
    return rows


def _packed_bank(r: Result) -> Rows:
    parts, settings = r["parts"], r["settings"]
    rows = []
    if "generation" in parts:
        found = parts["generation"]
        base, larger, bank = found["cpu_seconds"].values()
        rows.append((
            f"{settings['model']}, {settings['genomes']} genomes x {settings['problems']} problems: adapters of all genomes in one batch (taken out since) against merged adapters, a request each",
            f"{found['ratio']:.2f} times; {base:.1f}, with 128 rows {larger:.1f}, bank {bank:.1f} CPU seconds; {found['equal_texts']} texts equal",
        ))  # fmt: skip
    if "dora" in parts:
        rows.append(("DoRA over LoRA in that batch, CPU seconds per generated token", f"{parts['dora']['ratio']:.2f}"))
    if "light" in parts:
        found = parts["light"]
        rows.append(("four light settings of one adapter: one request against four", f"{found['ratio']:.2f} times; {found['equal_texts']} texts equal"))  # fmt: skip
    if "training" in parts:
        found = parts["training"]
        rows.append((
            "eight LoRA of rank 8 at batch 4 trained together (a prototype) against one after the other",
            f"{found['ratio']:.2f} times; losses differ by {found['largest_loss_difference']:.4f}",
        ))  # fmt: skip
    return rows


def _search(r: Result) -> Rows:
    def compared(found: Result, what: str) -> Rows:
        """A row per baseline and budget, champion and front side by side."""
        rows = []
        for name, champion in found.items():
            metric, budget, _, baseline = name.split("_", 3)
            if metric == "champion":
                each = (champion, found[f"hypervolume_{budget}_vs_{baseline}"])
                rows.append((
                    what.format(budget=budget, baseline=baseline),
                    "; ".join(f"{_three(one['a12'])} ({_three(one['a12_interval'][0])} to {_three(one['a12_interval'][1])}), p {one['p']:.2g}" for one in each),
                ))  # fmt: skip
        return rows

    where = f"table {r['table']}, {r['seeds']} seeds"
    rows = compared(
        r["comparisons"],
        f"A12 of champion; of hypervolume: evolution against {{baseline}}, {{budget}} trainings, {where}",
    )
    rows += compared(r["ablations"], f"the same against an ablation: {{baseline}}, {{budget}} trainings, {where}")
    for name, other in r["tables"].items():
        if name != r["table"]:
            rows += compared(
                {
                    key: value
                    for key, value in other["comparisons"].items()
                    if key.endswith(("_random", "_tpe-fitness"))
                },
                f"the same against {{baseline}}, {{budget}} trainings, table {name}, which defaults were tuned on",
            )
    for name, other in r["tables"].items():
        if one := other["unbiased"]:
            rows.append((
                f"champion without finalists, valued by the replicate that it was not chosen by: A12 against random, {r['budgets'][0]} trainings, table {name}",
                f"{_three(one['a12'])} ({_three(one['a12_interval'][0])} to {_three(one['a12_interval'][1])}), p {one['p']:.2g}",
            ))  # fmt: skip
    for name, trainings in r["reached"].items():
        metric, budget = name.split("_")
        if metric != "unseen":
            rows.append((f"{metric}: trainings until evolution's median is as high as random's with {budget}", f"{trainings or 'never'}"))  # fmt: skip
    for name, figures in r["breeding"].items():
        strategy, budget = name.split("_")
        rows.append((
            f"champion of {strategy} with {budget} trainings over the best of generation 0",
            f"{figures['last']:.4f} against {figures['first']:.4f}, p {figures['p']:.2g}; better with {figures['share_better']:.0%} of seeds",
        ))  # fmt: skip
    return rows


def _surrogate_fit(r: Result) -> Rows:
    labels = {"correlation": "correlation with the fitness without noise", "best": "mean fitness of the 20 genomes that it likes best"}  # fmt: skip
    return [
        (
            f"{labels[what]}, model of {size} trainings, table {table}, with the size of the update",
            f"{row['with']:.3f}, without {row['without']:.3f}; difference {row['difference']:+.4f} (standard error {row['standard_error']:.4f}, {r['draws']} draws)",
        )
        for table, rows in r["tables"].items()
        for name, row in rows.items()
        for what, _, size in [name.partition("_")]
    ]


def _live_search(r: Result) -> Rows:
    rows = []
    for name, model in r["models"].items():
        where = f"{name}, {model['budget']}, {len(model['seeds'])} seeds"
        for standing in model["standings"]:
            band = standing["band"]
            if standing["measure"] in ("held_out", "fitness"):
                rows.append((f"{where}: {standing['variant']}, median of {standing['measure']}",
                             f"{_three(band['median'])} ({_three(band['low'])} to {_three(band['high'])})"))  # fmt: skip
        for test in model["tests"]:
            p = "too few seeds for a test" if test["p"] is None else f"p {test['p']:.2g}"
            rows.append(
                (
                    f"{where}: {test['variant']} against {test['against']}, {test['measure']}",
                    f"A12 {_three(test['a12'])}, {p}",
                )
            )
        for line, found in model["champion_against"].get("evolution", {}).items():
            rows.append(
                (
                    f"{name}, {model['budget']}, held-out: evolution's champion against the {NAMES[line]}, {found['seeds']:.0f} seeds",
                    f"medians {_three(found['ours'])}, {_three(found['theirs'])}; better in {found['better']:.0f}, worse in {found['worse']:.0f}; "
                    f"A12 {_three(found['a12'])}, p {found['p']:.2g}",
                )
            )
    return rows


def _search_parts(r: Result) -> Rows:
    return [
        (
            f"{name}, at the cost of {r['trainings']} trainings on {table}: A12 against "
            f"{'generations' if name.endswith('lanes') else 'evolution'}; trained adapters; {r['seeds']} seeds",
            f"{_three(each['a12'])} ({_three(each['a12_interval'][0])} to {_three(each['a12_interval'][1])}), p {each['p']:.2g}; "
            f"{each['adapters']:.0f}",
        )
        for table, found in r["tables"].items()
        for name, each in found["arms"].items()
        if not name.startswith(("evolution", "generations"))
    ]


def _finalists(r: Result) -> Rows:
    def points(each: Result) -> str:
        low, high = each["interval"] or (each["mean"], each["mean"])
        return f"{100 * each['mean']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"

    rows = [
        (
            f"champion of a race of {r['finalists']} finalists on up to {budget} fresh bugs, over the champion, held-out "
            f"({len(r['runs'])} runs of the quickstart)",
            points(each),
        )
        for budget, each in r["gain"].items()
    ]
    return [
        *rows,
        (
            "the best of the finalists by the held-out bugs themselves: the most that a race could bring",
            points(r["most"]),
        ),
    ]


def _git_bugs(r: Result) -> Rows:
    total = r["total"]
    rows = [
        ("problems from history, all repositories", f"{total['problems']} in {total['commits']} commits"),
        (
            "of these under the judge: reference 1.0, buggy text below",
            f"{total['reference_1']}, {total['buggy_below']}",
        ),
    ]
    for row in r["repositories"]:
        if "error" not in row:
            what = f"{row['repository'].removesuffix('/repo').replace('+', '/')}, {row['commits']} commits"
            rows.append((what, f"{row['problems']} problems, {row['per_1000_commits']:g} per 1,000 commits"))
    return rows


def _own_packages(r: Result) -> Rows:
    total = r["summary"]
    return [
        (f"of {total['packages']} public packages: crashes", str(total["crashes"])),
        ("usable configurations, by base model", ", ".join(f"{count} for {model}" for model, count in total["configurations"].items())),
        ("packages that lose passing tests under observation", ", ".join(total["packages_that_lose_tests"]) or "none"),
        ("functions usable, of those that tests cover with recordable values", f"{total['usable']} of {total['recordable']}: {total['share']:.0%}"),
        ("packages over five times the plain test run plus 60 s", ", ".join(total["over_time"]) or "none"),
    ]  # fmt: skip


def _own_code(r: Result) -> Rows:
    rows = []
    for row in r["packages"]:
        unfinished = "" if row["finished"] else " (not finished)"
        for key, what in (("champion", "champion"), ("default_lora", "default LoRA"), ("base", "bare model")):
            if row["interval"][key] is None:
                continue
            low, high = row["interval"][key]
            share = f"{row['repaired'][key]} (95 % interval of the share {_three(low)} to {_three(high)})"
            rows.append((f"{row['package']}, {row['held_out']} held-out bugs: {what} repairs{unfinished}", share))
        rows.append(
            (f"{row['package']}: {row['adapters']} adapters, CPU time", f"{row['cpu_seconds'] / 60:.0f} minutes")
        )
    return rows


ROWS: dict[str, Callable[[Result], Rows]] = {
    "champion": _champion,
    "real_model": _real_model,
    "quickstart_cost": _quickstart_cost,
    "evaluation_speed": _evaluation_speed,
    "packed_bank": _packed_bank,
    "search": _search,
    "live_search": _live_search,
    "search_parts": _search_parts,
    "finalists": _finalists,
    "gene_landscape": _gene_landscape,
    "kills": _kills,
    "invariance": _invariance,
    "first_run": _first_run,
    "lanes": _lanes,
    "budget": _budget,
    "judge": _judge,
    "base_checksum": _base_checksum,
    "overlap": _overlap,
    "training_speed": _training_speed,
    "dora_cost": _dora_cost,
    "planned_memory": _planned_memory,
    "gpu_engine": _gpu_engine,
    "vllm_engine": _vllm_engine,
    "orchestration": _orchestration,
    "artifacts": _artifacts,
    "long_run": _long_run,
    "many_genomes": _many_genomes,
    "status": _status,
    "dead_worker": _dead_worker,
    "configuration": _configuration,
    "search_overhead": _search_overhead,
    "surrogate_fit": _surrogate_fit,
    "own_packages": _own_packages,
    "own_code": _own_code,
    "git_bugs": _git_bugs,
}
"""How the result of each program is shown, in the order of the page."""


def _question(name: str) -> str:
    return (ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text("utf-8"))) or "").splitlines()[0]


def _commits(result: Result) -> str:
    """Short hashes of the commits that were measured (rows and seeds may name their own)."""
    seeds = result.get("seeds")  # a number, or a row for each
    rows = [*result.get("rows", []), *(seeds if isinstance(seeds, list) else [])]
    hashes = [result["commit"], *(row["commit"] for row in rows if "commit" in row)]
    return ", ".join(dict.fromkeys(commit[:7] for commit in hashes))


def page() -> str:
    """The text of `benchmarks/README.md`.

    Raises:
        KeyError: A result lacks a key, or a program has no entry in `ROWS`.
    """
    parts = [HEAD, "## Results\n"]
    for name, rows_of in ROWS.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            parts.append(f"### {name}\n\n{_question(name)} ([program]({name}.py); not measured yet)\n")
            continue
        result = json.loads(path.read_text("utf-8"))
        load = result["machine"]["load"][0]
        measured = f"measured {result['when'][:10]} at {_commits(result)}, load {load:.1f}"
        table = "\n".join(f"| {what} | {value} |" for what, value in rows_of(result))
        parts.append(
            f"### {name}\n\n{_question(name)} ([program]({name}.py), [JSON](results/{name}.json); {measured})\n\n"
            f"| what | measured |\n|---|---|\n{table}\n"
        )
    return "\n".join([*parts, OPEN])


def main() -> None:
    """Write the page, or compare it with `--check`."""
    text = page()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text("utf-8") != text:
            raise SystemExit("benchmarks/README.md is out of date; run: make docs")
        return
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
