"""`coral verify`: checks a run against its files and its store. Exits 0 when everything agrees, 1 when something differs."""

import tempfile
from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from coral_core.bounded_read import sha256_of
from coral_core.config import BudgetConfig
from coral_core.errors import ConfigError, CoralError
from coral_core.runs.run_folder import RunFolder, find_run
from coral_core.store.store import WEIGHTS_BYTES, Store, first_line
from coral_core.verification import (
    Expected,
    Finding,
    Verified,
    check_all,
    differences_between,
    judge_again,
    note_unchecked,
    open_run,
    sample_of,
)
from flows.cli.markup import echo, print_json, words
from flows.cli.places import AsJson, Runs, store_of
from flows.cli.store import collected_warnings

WEIGHTS = "adapter_model.safetensors"
COLOURS = {"ok": "green", "differs": "red", "note": "yellow"}


def verify(
    run: str = "latest",
    /,
    *,
    sample: Annotated[int, Parameter(help="Evaluations whose patches are judged again.")] = 5,
    seed: Annotated[int, Parameter(help="Which evaluations are drawn; the champion's held-out one always is.")] = 0,
    regenerate: Annotated[
        bool,
        Parameter(help="Train and evaluate the sample anew in a scratch store and compare bit for bit.", negative=()),
    ] = False,
    runs: Runs = "runs",
    as_json: AsJson = False,
) -> None:
    """Check a run's files, versions, digests, store entries and search, and judge a sample of its patches again.

    Each check says what it looked at; lines `unchecked` say what was not looked at.

    Args:
        run: Id of the run, the beginning of one, `latest`, or the path of its folder.
    """
    folder = find_run(runs, run)
    with collected_warnings():  # each is a finding
        findings, drawn = _verified(folder, max(0, sample), seed, regenerate)
    wrong = [finding for finding in findings if finding.status == "differs"]
    if as_json:
        print_json({
            "schema_version": 1,
            "run_id": folder.run_id,
            "verified": not wrong,
            "sample": [{"label": item.label, "evaluation_digest": item.evaluation_digest} for item in drawn],
            "findings": findings,
        })  # fmt: skip
    else:
        echo(words(folder.run_id, "bold"))
        for finding in findings:
            state, check = (f"{finding.status:<8}", COLOURS[finding.status]), (f"{finding.check:<14}", "dim")
            echo(Text.assemble(state, check, words(finding.text)))
        echo(f"\n[red]{len(wrong)} differences[/]" if wrong else "\n[green]everything that was checked agrees[/]")
    if wrong:
        raise SystemExit(1)


def _verified(folder: RunFolder, count: int, seed: int, regenerate: bool) -> tuple[list[Finding], list[Expected]]:
    try:
        store = store_of(folder)
    except ConfigError as error:
        text = f"config.yaml cannot be read: {first_line(error)}"
        return [Finding(check="files", status="differs", text=text)], []
    found, broken = open_run(folder, store)
    if found is None:
        return broken, []
    drawn = sample_of(check_all(found), count, seed)
    judge_again(found, drawn)
    if regenerate:
        _regenerate(found, drawn)
    note_unchecked(found, drawn, regenerate)
    return found.findings, drawn


def _regenerate(run: Verified, sample: Sequence[Expected]) -> None:
    """Repeat the jobs of `sample`, from training to scores, in a scratch store, and compare the results."""
    from coral_core.lm.base_model import identify
    from coral_core.lm.vllm_interpreter import vllm_settings
    from flows.work_pools import make_executor

    here = identify(run.config.base_model, vllm_settings(run.config))
    if here.numerics_class != run.run.numerics:
        run.note("regenerated", f"nothing: results repeat bit for bit within one numerics class only; recorded {run.run.numerics!r}, here {here.numerics_class!r}")  # fmt: skip
        return
    infra = run.config.infra
    local = infra.model_copy(update={"executor": "inline" if infra.executor == "inline" else "local"})
    config = run.config.model_copy(update={"infra": local, "budget": BudgetConfig()})
    with tempfile.TemporaryDirectory(prefix="coral-verify-") as scratch:
        store = Store(scratch)
        store.prepare()
        with make_executor(config, store, run.identity.run_id) as executor:
            for item in sample:
                try:
                    if item.job.training is not None:
                        executor.train(item.job.training)
                    new = executor.submit_evaluation(item.job).result()
                except CoralError as error:
                    run.say("regenerated", [f"{item.label}: failed: {str(error).splitlines()[0]}"], "")
                    continue
                old = run.store.read_evaluation(item.evaluation_digest)
                if old is None:
                    continue  # reported by the check of the store
                wrong = differences_between(old, new) + _other_weights(run.store, store, item.training_digest)
                run.say("regenerated", [f"{item.label}: {text}" for text in wrong],
                        f"{item.label}: trained, generated and judged anew, the same bit for bit")  # fmt: skip


def _other_weights(old: Store, new: Store, digest: str) -> list[str]:
    if digest == "none":
        return []
    try:
        one, other = (sha256_of(s.adapter_path(digest) / WEIGHTS, WEIGHTS_BYTES, s.root) for s in (old, new))
    except FileNotFoundError:
        return []  # an infeasible genome has no weights, which its record shows
    except OSError as error:
        return [f"the weights of adapter {digest[:16]} cannot be compared ({error.strerror})"]
    return [] if one == other else [f"the weights of adapter {digest[:16]} differ"]
