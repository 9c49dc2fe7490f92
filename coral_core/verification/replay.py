"""Judges stored patches again, and computes the scores from the new verdicts."""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

from coral_core.digest import seed_from
from coral_core.errors import CoralError
from coral_core.jobs.job_content import problem_set
from coral_core.jobs.jobs import Evaluation, EvaluationJob
from coral_core.judge.judge import Judge, Verdict
from coral_core.lanes.lane import COMPLETION_CHARACTERS
from coral_core.problems.problem import Problem
from coral_core.scoring.boundary import read_completion
from coral_core.scoring.judged import Judged
from coral_core.scoring.objectives import score
from coral_core.scoring.plugins import measure
from coral_core.scoring.text_process import shared
from coral_core.store.store import first_line
from coral_core.untrusted import visible
from coral_core.verification.findings import Expected, Verified, value_differences

MOST_NAMED = 3
"""Most differences of one evaluation that are listed; the others are counted."""


def sample_of(expected: Sequence[Expected], count: int, seed: int) -> list[Expected]:
    """Draw distinct evaluations at random; the champion's held-out evaluation always comes first.

    Args:
        expected: The evaluations to draw from; equal digests count once.
        count: How many to draw; fewer if there are not so many.
        seed: Seed of the draw.
    """
    distinct: dict[str, Expected] = {}
    for item in expected:  # of several lines with one evaluation, as of a champion that is the default LoRA, the first
        distinct.setdefault(item.evaluation_digest, item)
    first = [item for item in distinct.values() if item.label == "champion held-out"]
    rest = [item for item in distinct.values() if item not in first]
    random.Random(seed_from("verify", seed)).shuffle(rest)
    return (first + rest)[:count]


def judge_again(run: Verified, sample: Sequence[Expected]) -> None:
    """Judge the patches of evaluations again, compute their scores again, and add the findings to `run`.

    Args:
        run: The run; an evaluation that is not in its store is skipped.
        sample: The evaluations.
    """
    if not sample:
        return
    with Judge.configured(run.config.scoring.judge) as judge:
        for item in sample:
            evaluation = run.store.read_evaluation(item.evaluation_digest)
            if evaluation is None:
                continue  # reported by the check of the store
            if evaluation.infeasible is not None:
                run.note(
                    "verdicts", f"{item.label}: infeasible ({evaluation.infeasible}), so there is no patch to judge"
                )
                continue
            try:
                wrong, patches = _judged(run, judge, item.job, evaluation)
            except CoralError as error:
                run.say("verdicts", [f"{item.label}: cannot be judged again: {first_line(error)}"], "")
                continue
            run.say("verdicts", [f"{item.label}: {text}" for text in wrong],
                    f"{item.label}: {patches} patches judged again, every verdict and score the same")  # fmt: skip


def differences_between(old: Evaluation, new: Evaluation) -> list[str]:
    """Compare an evaluation with its repetition; costs and times are ignored.

    Args:
        old: The evaluation in the store.
        new: The evaluation done again.

    Returns:
        One text per difference.
    """
    one, other = (evaluation.model_dump(mode="json", exclude={"cost", "records"}) for evaluation in (old, new))
    wrong = list(value_differences(((key, one[key], other[key]) for key in one), "anew", "stored"))
    theirs = {record.problem_id: record for record in new.records}
    changed = [record.problem_id for record in old.records if theirs.get(record.problem_id) != record]
    if changed or len(old.records) != len(new.records):
        wrong.append(f"completions or verdicts of {len(changed)} problems differ: {', '.join(changed[:MOST_NAMED])}")
    return wrong


def _judged(run: Verified, judge: Judge, job: EvaluationJob, evaluation: Evaluation) -> tuple[list[str], int]:
    """Differences, and how many patches were judged."""
    problems = problem_set(job.problems).split(job.split)
    wrong = list(problem_differences(problems, job, evaluation))
    if wrong:
        return wrong, 0
    flat = [(problem, sample.patch) for problem, record in zip(problems, evaluation.records, strict=True) for sample in record.samples]  # fmt: skip
    verdicts = iter(judge.judge_batch(flat))
    grouped = [tuple(next(verdicts) for _ in record.samples) for record in evaluation.records]
    differing = list(_differing(problems, evaluation, grouped))
    wrong = differing[:MOST_NAMED]
    if len(differing) > MOST_NAMED:
        wrong.append(f"{len(differing) - MOST_NAMED} more patches with other verdicts")
    if any(len(patch) >= COMPLETION_CHARACTERS for _, patch in flat):
        run.note("verdicts", f"patches that were cut at {COMPLETION_CHARACTERS:,} characters when stored are not compared, nor are the scores of their evaluation")  # fmt: skip
        return wrong, len(flat)
    return wrong + _scores(run, judge, job, evaluation, problems, grouped), len(flat)


def problem_differences(problems: Sequence[Problem], job: EvaluationJob, evaluation: Evaluation) -> Iterator[str]:
    """Check that a scored evaluation holds the problems of its split, in order, with the requested number of samples.

    Args:
        problems: The problems of the split.
        job: The job of the evaluation.
        evaluation: The evaluation; it must not be infeasible.

    Yields:
        One text per difference.
    """
    expected, recorded = [p.problem_id for p in problems], [r.problem_id for r in evaluation.records]
    if expected != recorded:
        differing = [visible(name) for name in sorted(set(expected) ^ set(recorded))[:MOST_NAMED]]
        yield f"it holds other problems than its split: {', '.join(differing) or 'another order'}"
        return
    wanted = job.generation.samples if job.light.sampling else 1
    for problem, record in zip(problems, evaluation.records, strict=True):
        about = (record.retention, record.bug_class, record.difficulty)
        if about != (problem.retention, problem.bug_class, problem.difficulty):
            yield f"{problem.problem_id}: kind, bug class or difficulty are not the problem's"
        if len(record.samples) != wanted:
            yield f"{problem.problem_id}: {len(record.samples)} samples, its job asks for {wanted}"


def _differing(
    problems: Sequence[Problem], evaluation: Evaluation, grouped: Sequence[Sequence[Verdict]]
) -> Iterator[str]:
    for problem, record, verdicts in zip(problems, evaluation.records, grouped, strict=True):
        for sample, verdict in zip(record.samples, verdicts, strict=True):
            if len(sample.patch) >= COMPLETION_CHARACTERS:
                continue
            fresh = json.loads(verdict.model_dump_json())
            keys = [key for key in fresh if key != "message" and sample.verdict.get(key) != fresh[key]]
            if keys:
                yield f"{record.problem_id}: verdict stored {_short(sample.verdict, keys)}, judged again {_short(fresh, keys)}"  # fmt: skip
            elif (
                len(sample.completion) < COMPLETION_CHARACTERS
                and read_completion(sample.completion, problem, shared())[0].patch != sample.patch
            ):
                yield f"{record.problem_id}: the patch is not what is extracted from its completion"


def _scores(
    run: Verified,
    judge: Judge,
    job: EvaluationJob,
    evaluation: Evaluation,
    problems: Sequence[Problem],
    grouped: Sequence[tuple[Verdict, ...]],
) -> list[str]:
    judged = Judged(
        problems=tuple(problems),
        patches=tuple(tuple(sample.patch for sample in record.samples) for record in evaluation.records),
        verdicts=tuple(grouped),
        base_passes=frozenset(job.base_passes),
        trainable_parameters=evaluation.trainable_parameters,
        base_parameters=run.run.base_model.parameters,
    )
    scores = score(judged, judge.reference_lines(problems))
    fresh = {**scores.objectives(), **measure(job.objectives, judged)}
    names = [*fresh, *(visible(name) for name in evaluation.scores.keys() - fresh.keys())]
    pairs: list[tuple[str, Any, Any]] = [
        (f"score {name}", evaluation.scores.get(name, "none"), fresh.get(name, "none")) for name in names
    ]
    pairs += [("pass@1", evaluation.pass_at_1, scores.pass_at_1), ("pass@k", evaluation.pass_at_k, scores.pass_at_k)]
    return list(value_differences(pairs, "computed again", "stored"))


def _short(verdict: dict[str, Any], keys: Sequence[str]) -> str:
    text = ", ".join(f"{key} {verdict.get(key)}" for key in keys)
    return text if len(text) <= 160 else text[:159] + "…"


def note_unchecked(run: Verified, judged: Sequence[Expected], regenerated: bool) -> None:
    """Add a note for each part of the run and its store that was not checked.

    Args:
        run: The run, after all checks.
        judged: Evaluations whose patches were judged again.
        regenerated: Whether these were trained and generated again, too.
    """
    every = len({item.evaluation_digest for item in run.expected})
    left = every - len(judged)
    if left > 0:
        run.note(
            "unchecked",
            f"the patches of {left} of {every} evaluations were not judged again: --sample {every} judges all",
        )
    if left > 0 or not regenerated:
        whose = f"the other {left} evaluations" if regenerated else f"{every} evaluations"
        run.note("unchecked", f"that these genes train to these weights, and that the model wrote these patches, is not shown for {whose}: --regenerate shows it for the sample")  # fmt: skip
    run.note("unchecked", "times and costs (timings.jsonl, the ledger), report files, pictures and champion/README.md: made from what was checked, not compared with it")  # fmt: skip
