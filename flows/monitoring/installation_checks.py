"""All checks of an installation, causes before consequences: API, pools, workers, store, ledger, queues, lanes, progress."""

from collections.abc import Iterator

from coral_core.errors import ConfigError, CoralError, JudgeError
from coral_core.runs.run_folder import run_folders
from coral_core.store.store import Store
from flows.installation.queue_status import read_queues
from flows.monitoring.finding import Check
from flows.monitoring.progress_checks import EvolutionStatus, progress_updates, read_evolutions
from flows.monitoring.server_checks import ServerStatus, lane_starts, read_server, server_checks
from flows.monitoring.storage_checks import storage_checks
from flows.monitoring.work_checks import work_checks
from flows.prefect_api.api_errors import ApiError
from flows.prefect_api.client import ANSWER_SECONDS, RestClient


def installation_checks(
    place: str, runs: str, url: str | None, error: CoralError | None = None, answer_seconds: float = ANSWER_SECONDS
) -> Iterator[Check]:
    """Make all checks, one after the other; none raises.

    Args:
        place: Path of the store.
        runs: Directory of the runs.
        url: The Prefect API; None when none is configured.
        error: Why there is none; read only where `url` is None.
        answer_seconds: Longest wait for one answer of the API, in seconds.

    Yields:
        Each check, when it was made.
    """
    store = Store(place)
    server: ServerStatus | None = None
    evolutions: list[EvolutionStatus] | None = None
    if url is None:
        error = error or ConfigError("none is configured", remedy="coral up, or set PREFECT_API_URL")
    else:
        try:
            with RestClient(url, answer_seconds) as api:
                server, evolutions = read_server(api), read_evolutions(runs, store, api)
        except ApiError as unreachable:
            error = unreachable
    if server is not None:
        yield from server_checks(server)
    elif error is not None:
        yield Check.of_error("api", error, "no lane can be started, nothing shows in the UI")
    queues = read_queues(store)
    yield from storage_checks(store, server, used=bool(run_folders(runs)))
    if server is not None:
        yield lane_starts(server.deployments, queues)
    yield from work_checks(queues, server, store)
    yield progress_updates(evolutions if evolutions is not None else read_evolutions(runs, store, None))
    yield judge_layers()


def judge_layers() -> Check:
    """Checks that this machine has the sandbox layers that judging needs. Lanes check their own machines."""
    from coral_core.judge.sandbox.zygote_pool import BASE_LAYERS, detect_layers

    name = "judge layers"
    try:
        found = detect_layers()
    except (JudgeError, OSError) as error:
        return Check(name, "bad", str(error).splitlines()[0], todo="coral doctor tries each layer")
    if missing := [layer for layer in BASE_LAYERS if not found[layer]]:
        return Check(
            name,
            "bad",
            f"{', '.join(missing)} missing on this machine",
            "lanes here refuse to judge patches",
            "coral doctor says what each layer holds back; a newer kernel has them, or scoring.judge.allow_missing_layers",
        )
    return Check(name, "ok", ", ".join(layer for layer, there in found.items() if there), "on this machine")
