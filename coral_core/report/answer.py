"""Did the search help? One plain word and sentence, the first thing a reader of a report wants."""

from coral_core.report.content import Gaps
from coral_core.report.evidence import Answer
from coral_core.report.history import History


def answer(history: History, gaps: Gaps) -> Answer:
    """The champion held against the default LoRA on the sealed bugs."""
    final, gap = history.final, gaps.champion_minus_default_lora
    champion, default = history.held_out("champion"), history.held_out("default_lora")
    if final is None or gap is None or champion is None or default is None:
        return Answer(verdict="unknown", text="The held-out split is still sealed, so nothing is decided yet.")
    points = f"{100 * gap.difference:+.1f} points"
    if champion.training_digest == default.training_digest:
        return Answer(
            verdict="default LoRA itself",
            text="The search found nothing better than what it started from: the champion's adapter is the default LoRA itself.",
        )
    if gap.verdict == "better":
        return Answer(
            verdict="better", text=f"The search helped: the champion repairs more held-out bugs than the default LoRA ({points})."
        )  # fmt: skip
    if gap.verdict == "worse":
        return Answer(
            verdict="worse", text=f"The search did not help: the champion repairs fewer held-out bugs than the default LoRA ({points})."
        )  # fmt: skip
    if gap.verdict == "not distinguishable":
        return Answer(
            verdict="not distinguishable",
            text=f"The search is not shown to have helped: on the held-out bugs the champion is not distinguishable from the default LoRA ({points}, within noise).",
        )
    return Answer(
        verdict="unknown",
        text=f"No paired test against the default LoRA is possible: an evaluation has left the store ({points} by the numbers in history.jsonl).",
    )
