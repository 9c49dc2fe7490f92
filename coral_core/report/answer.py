"""Did the search help? One plain word and sentence, the first thing a reader of a report wants."""

from collections.abc import Mapping

from coral_core.jobs.jobs import Evaluation
from coral_core.report.content import Gaps
from coral_core.report.evidence import Answer
from coral_core.report.history_records import History


def answer(history: History, gaps: Gaps, evaluations: Mapping[str, Evaluation]) -> Answer:
    """The champion held against the default LoRA on the sealed bugs; `evaluations` are those that the store has, by line."""
    final, gap = history.final, gaps.champion_minus_default_lora
    for name, who in (("champion", "the champion"), ("default_lora", "the default LoRA")):
        if (found := evaluations.get(name)) is not None and found.infeasible:
            return Answer(
                verdict="unknown",
                text=f"Nothing can be compared: {who} has no score on the held-out bugs ({found.infeasible}).",
            )
    champion, default = history.held_out("champion"), history.held_out("default_lora")
    if final is None or gap is None or champion is None or default is None:
        return Answer(verdict="unknown", text="The held-out split has not been opened, so nothing is decided yet.")
    points = f"{100 * gap.difference:+.1f} points"
    if champion.evaluation_digest == default.evaluation_digest:
        return Answer(
            verdict="default LoRA itself",
            text="The search found nothing better than what it started from: the champion's adapter is the default LoRA itself.",
        )
    more = _more(history, final.champion, champion.training_digest == default.training_digest)
    if gap.verdict == "better":
        return Answer(
            verdict="better", text=f"The search helped: the champion repairs more held-out bugs than the default LoRA ({points}).{more}"
        )  # fmt: skip
    if gap.verdict == "worse":
        return Answer(
            verdict="worse", text=f"The search did not help: the champion repairs fewer held-out bugs than the default LoRA ({points}).{more}"
        )  # fmt: skip
    if gap.verdict == "not distinguishable":
        return Answer(
            verdict="not distinguishable",
            text=f"The search is not shown to have helped: on the held-out bugs the champion is not distinguishable from the default LoRA ({points}, within noise).{more}",
        )
    return Answer(
        verdict="unknown",
        text=f"No paired test against the default LoRA is possible: an evaluation has left the store ({points} by the numbers in history.jsonl).",
    )


def _more(history: History, champion: str, same_adapter: bool) -> str:
    """What a reader should know before the search gets the credit."""
    text = " Its adapter is the default LoRA's own; only the decoding differs." if same_adapter else ""
    if len(history.generations) > 1 and history.generations[0].best == champion:
        text += f" {champion} was there in the first generation: breeding improved nothing."
    return text
