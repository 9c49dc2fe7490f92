"""All checks of an installation, in the order in which a fault spreads: API, pools, workers, store, ledger, queues, lanes, progress."""

from collections.abc import Iterator

from coral_core.errors import ConfigError, CoralError, JudgeError
from coral_core.runs.run_folder import run_folders
from coral_core.store.store import Store
from flows.installation.obstacles import DeploymentLook
from flows.monitoring.finding import Check
from flows.monitoring.ledger_checks import ledger_check
from flows.monitoring.progress_checks import look_at_evolutions, progress_updates
from flows.monitoring.server_checks import look_at_server, server_checks
from flows.monitoring.start_checks import lane_starts, look_at_starts
from flows.monitoring.storage_checks import storage_checks
from flows.monitoring.work_checks import look_at_queues, work_checks
from flows.prefect_api.client import ANSWER_SECONDS


def installation_checks(
    place: str, runs: str, url: str | None, error: CoralError | None = None, answer_seconds: float = ANSWER_SECONDS
) -> Iterator[Check]:
    """Every check, one after the other; none raises.

    Args:
        place: The store.
        runs: Directory of the runs.
        url: The Prefect API; None when none is configured.
        error: Why there is none.
        answer_seconds: How long the API may take for one answer.
    """
    store = Store(place)
    pools = None
    reachable = None
    starts: tuple[DeploymentLook, ...] | str | None = None
    if url is None:
        missing = error or ConfigError("none is configured", remedy="coral up, or set PREFECT_API_URL")
        yield Check.of_error("api", missing)
    else:
        look = look_at_server(url, answer_seconds)
        yield from server_checks(look)
        if not look.problem:
            pools, reachable = look.pools, url
            starts = look_at_starts(url, runs, answer_seconds)
    yield from storage_checks(store, reachable, used=bool(run_folders(runs)))
    evolutions = look_at_evolutions(runs, store, reachable, answer_seconds)
    yield ledger_check(store, evolutions)
    queues = look_at_queues(store)
    if starts is not None:
        yield lane_starts(starts, queues)
    yield from work_checks(queues, pools, store)
    yield progress_updates(evolutions)
    yield judge_layers()


def judge_layers() -> Check:
    """Can this machine hold a patch in? (Lanes of other machines check their own, and refuse.)"""
    from coral_core.judge.sandbox.zygote_pool import BASE_LAYERS, detect_layers

    name = "judge layers"
    try:
        found = detect_layers()
    except (JudgeError, OSError) as error:
        return Check(name, "bad", str(error).splitlines()[0], todo="coral doctor tries each layer")
    missing = [layer for layer in BASE_LAYERS if not found[layer]]
    if missing:
        return Check(
            name,
            "bad",
            f"{', '.join(missing)} missing on this machine",
            "lanes here refuse to judge patches",
            "coral doctor says what each layer holds back; a newer kernel has them, or scoring.judge.allow_missing_layers",
        )
    return Check(name, "ok", ", ".join(layer for layer, there in found.items() if there), "on this machine")
