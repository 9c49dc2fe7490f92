"""What a verification did not look at, said beside what it did: a run is verified as far as was looked, and no further."""

from collections.abc import Sequence

from coral_core.verification.findings import Expected, Verified


def note_unchecked(run: Verified, expected: Sequence[Expected], judged: Sequence[Expected], regenerated: bool) -> None:
    """Add a note for each thing that stands in the run or its store and was not checked.

    Args:
        run: The run, after all checks.
        expected: All its evaluations.
        judged: Those whose patches were judged again.
        regenerated: Whether these were trained and generated anew, too.
    """
    every = len({item.evaluation_digest for item in expected})
    left = every - len(judged)
    if left > 0:
        run.note(
            "unchecked",
            f"the patches of {left} of {every} evaluations were not judged again: --sample {every} judges all",
        )
    whose = f"the other {left} evaluations" if regenerated else f"{every} evaluations"
    if left > 0 or not regenerated:
        run.note("unchecked", f"that these genes train to these weights, and that the model wrote these patches, is not shown for {whose}: --regenerate shows it for the sample")  # fmt: skip
    run.note("unchecked", "times and costs (timings.jsonl, the ledger), report files, pictures and champion/README.md: made from what was checked, not compared with it")  # fmt: skip
