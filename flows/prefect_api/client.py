"""A client of the Prefect REST API for commands, without ``import prefect``, which takes longer than their requests.

Sends the credentials that Prefect's own client would send (key, basic authentication, headers, certificates). Answers are
parsed into records of the fields in use. Every failure is an `ApiError`, also an answer of an unexpected shape.
"""

import ssl
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from flows.prefect_api.api_errors import ApiError, ApiUnreachableError
from flows.prefect_api.credentials import credential_for, key_refused, same_api
from flows.prefect_api.settings import api_settings

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 20.0
BUSY_PAUSES = (0.5, 1.0, 2.0)
"""Seconds before each repetition of a request that a busy server refused (503)."""
PAGE = 200
"""Rows of one request: the default of PREFECT_SERVER_API_DEFAULT_LIMIT, above which a server refuses."""
SILENT_BEATS = 5 / 3
"""Heartbeat intervals after which a worker counts as silent: 50 s at the usual 30 s."""
_PROTECTED = {"user-agent", "prefect-csrf-token", "prefect-csrf-client"}
"""Headers that Prefect's client does not let `PREFECT_CLIENT_CUSTOM_HEADERS` set."""

StateType = Literal[
    "SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING", "COMPLETED", "FAILED", "CANCELLED", "CRASHED"
]
LIVING: tuple[StateType, ...] = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")


class _Record(BaseModel):
    """Part of an answer; fields that are not used here are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class FlowRun(_Record):
    """One flow run."""

    id: str
    name: str = ""
    state_type: StateType | None = None
    tags: tuple[str, ...] = ()
    parameters: dict[str, Any] = {}
    start_time: datetime | None = None
    work_pool_name: str | None = None

    @property
    def has_ended(self) -> bool:
        return self.state_type is not None and self.state_type not in LIVING


class ConcurrencyLimit(_Record):
    """The concurrency limit of a deployment."""

    limit: int | None = None
    active_slots: int = 0
    active: bool = True


class Deployment(_Record):
    """One deployment. `paused` concerns its schedule alone."""

    id: str = ""
    paused: bool = False
    work_pool_name: str | None = None
    work_queue_name: str | None = None
    global_concurrency_limit: ConcurrencyLimit | None = None


class WorkPool(_Record):
    """One work pool."""

    name: str
    type: str = ""
    concurrency_limit: int | None = None
    is_paused: bool = False
    base_job_template: dict[str, Any] = {}


class WorkQueue(_Record):
    """One queue of a work pool."""

    concurrency_limit: int | None = None
    is_paused: bool = False
    last_polled: datetime | None = None
    polled: float | None = Field(None, description="Seconds since a worker polled it; None: never.")


class Worker(_Record):
    """One worker of a pool; Prefect also lists workers that have ended."""

    name: str
    last_heartbeat_time: datetime | None = None
    heartbeat_interval_seconds: float = Field(30.0, gt=0)
    silent: float = Field(0.0, description="Seconds since its last heartbeat, by the server's clock.")

    @property
    def is_online(self) -> bool:
        """Whether its heartbeats arrive; Prefect itself reports OFFLINE only after 3 missing ones."""
        return self.silent <= SILENT_BEATS * self.heartbeat_interval_seconds


class Automation(_Record):
    """One automation."""

    name: str
    enabled: bool


class LogLine(_Record):
    """One line of a flow run's log; `level` is a number of `logging`."""

    id: str
    flow_run_id: str | None = None
    level: int
    timestamp: datetime
    message: str


class _Updated(_Record):
    updated: datetime


Row = TypeVar("Row")
RecordT = TypeVar("RecordT", bound=_Record)


def all_pages(read: Callable[[int | None, int], Sequence[Row]]) -> list[Row]:
    """Read all rows of a query, each once, also when rows move between pages meanwhile.

    Args:
        read: Called with limit (None: the server's default) and offset; returns the rows from there. Rows are told apart
            by `id`, or by `name` where they have none.

    Example:
        >>> from types import SimpleNamespace
        >>> rows = [SimpleNamespace(id=letter) for letter in "abc"]
        >>> [row.id for row in all_pages(lambda limit, offset: rows[offset:][:limit])]
        ['a', 'b', 'c']
    """
    found: dict[Any, Row] = {}
    limit: int | None = PAGE
    offset = 0
    while True:
        try:
            rows: Sequence[Any] = read(limit, offset)
        except (ApiError, httpx.HTTPStatusError) as error:
            status = error.status if isinstance(error, ApiError) else error.response.status_code
            if limit is None or status != 422:
                raise
            limit = None  # the server refuses pages of that size
            continue
        found |= {getattr(row, "id", None) or row.name: row for row in rows}
        offset += len(rows)
        if not rows or (limit is not None and len(rows) < limit):
            return list(found.values())


def api_error(error: Exception, url: str | None = None) -> ApiError | None:
    """The `ApiError` for an exception of httpx or of Prefect's client.

    Args:
        error: The exception.
        url: The API that was asked; None: the configured one.

    Returns:
        None when `error` is of another kind.
    """
    if isinstance(error, RuntimeError):  # Prefect: "Failed to reach API", raised from the cause
        cause = error.__cause__
        return api_error(cause, url) if isinstance(cause, httpx.HTTPError) else None
    if not isinstance(error, httpx.HTTPError | httpx.InvalidURL):
        return None
    url = url or api_settings().url or "the Prefect API"
    if isinstance(error, httpx.InvalidURL):
        return ApiError(f"{url} is no URL of an API ({error})", remedy="Set PREFECT_API_URL to one.")
    if not isinstance(error, httpx.HTTPStatusError):
        return ApiUnreachableError(
            f"{url} cannot be reached ({type(error).__name__})",
            remedy="Start it with coral up, set PREFECT_API_URL to another, or unset it.",
        )
    if error.response.status_code in (401, 403):
        return key_refused(url, error.response.status_code)
    is_page = "html" in error.response.headers.get("content-type", "")
    detail = ("" if is_page else " ".join(error.response.text.split())[:200]) or error.response.reason_phrase
    status = error.response.status_code
    return ApiError(
        f"{url} answers {status}: {detail}",
        remedy="The server is busy or starting: run the same command again."
        if status == httpx.codes.SERVICE_UNAVAILABLE
        else "Is it a Prefect API (it ends in /api) of the version that is installed here?",
        status=status,
    )


def refuse_other_servers(url: str) -> None:
    """Check that `url` is a Prefect API; called before something is reported as missing there. Raises `ApiError`."""
    with RestClient(url) as client:
        client.check_is_prefect()


class RestClient:
    """Short requests to a Prefect API over one connection; use it as a context manager.

    Args:
        url: The API; ends in ``/api``.
        answer_seconds: Longest wait for one answer, in seconds.

    Raises:
        ApiError: By each method, where the API cannot be reached or answers with an error.

    Example::

        with RestClient("http://127.0.0.1:4200/api") as client:
            print(client.version(), [pool.name for pool in client.work_pools()])
    """

    def __init__(self, url: str, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.url = url.rstrip("/")
        self.ahead = 0.0
        """Seconds that the server's clock is ahead of this machine's, as of the last answer; 0.0 below 2 seconds."""
        self._is_prefect: bool | None = None
        timeout = httpx.Timeout(answer_seconds, connect=CONNECT_SECONDS)
        self._http = httpx.Client(headers=_headers(self.url), timeout=timeout, verify=_verify(), trust_env=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # -- reading ---------------------------------------------------------------------------

    def version(self) -> str:
        """Version of the server; "" where it does not report one."""
        return str(self._ask("GET", "admin/version") or "")

    def age(self, when: datetime) -> float:
        """Seconds since `when` by the server's clock; at least 0."""
        return max(0.0, time.time() + self.ahead - when.timestamp())

    def flow_run(self, flow_run_id: str) -> FlowRun | None:
        """A flow run; None when the server does not know it."""
        return self._one(FlowRun, f"flow_runs/{quote(flow_run_id, safe='')}")

    def flow_runs(self, query: dict[str, Any]) -> list[FlowRun]:
        """Flow runs that match a query made by `flow_run_query`."""
        return self._all(FlowRun, "flow_runs/filter", query)

    def count_flow_runs(self, query: dict[str, Any]) -> int:
        """Number of the flow runs that match a query made by `flow_run_query`."""
        return self._read(TypeAdapter(int), self._ask("POST", "flow_runs/count", query) or 0)

    def deployment(self, name: str) -> Deployment | None:
        """A deployment by its full name (flow/deployment)."""
        return self._one(Deployment, f"deployments/name/{quote(name)}")

    def work_pools(self) -> list[WorkPool]:
        return self._all(WorkPool, "work_pools/filter")

    def work_pool(self, name: str) -> WorkPool | None:
        return self._one(WorkPool, f"work_pools/{quote(name, safe='')}")

    def work_queue(self, pool: str, name: str) -> WorkQueue | None:
        found = self._one(WorkQueue, f"work_pools/{quote(pool, safe='')}/queues/{quote(name, safe='')}")
        if found is None or found.last_polled is None:
            return found
        return found.model_copy(update={"polled": self.age(found.last_polled)})

    def workers(self, pool: str) -> list[Worker]:
        """Workers of a pool that ever sent a heartbeat and that Prefect still lists; none where the pool is missing."""
        found = self._all(Worker, f"work_pools/{quote(pool, safe='')}/workers/filter")
        return [
            worker.model_copy(update={"silent": self.age(worker.last_heartbeat_time)})
            for worker in found
            if worker.last_heartbeat_time is not None
        ]

    def automations(self) -> list[Automation]:
        return self._all(Automation, "automations/filter")

    def log_lines(self, flow_run_ids: Sequence[str], level: int, after: str = "", before: str = "") -> list[LogLine]:
        """Log lines of flow runs, sorted by time.

        Args:
            flow_run_ids: Ids, at most a few hundred.
            level: Lowest level, as a number of `logging`.
            after: Earliest time (ISO 8601); "": from the beginning.
            before: Latest time (ISO 8601); "": to the end.
        """
        wanted: dict[str, Any] = {"level": {"ge_": level}, "flow_run_id": {"any_": list(flow_run_ids)}}
        if span := {name: time for name, time in (("after_", after), ("before_", before)) if time}:
            wanted["timestamp"] = span
        return self._all(LogLine, "logs/filter", {"logs": wanted, "sort": "TIMESTAMP_ASC"})

    def artifact_age(self, flow_run_id: str) -> float | None:
        """Seconds since the last change of an artifact of the flow run; None without artifacts."""
        query = {"flow_runs": {"id": {"any_": [flow_run_id]}}, "sort": "UPDATED_DESC", "limit": 1}
        newest = self._read(TypeAdapter(list[_Updated]), self._ask("POST", "artifacts/filter", query) or [])
        return self.age(newest[0].updated) if newest else None

    def check_is_prefect(self) -> None:
        """Check that this is a Prefect API: below a wrong address everything looks missing. Raises `ApiError`."""
        if self._is_prefect is None:
            self._is_prefect = True  # so that the next request, if not found, does not recurse
            self._is_prefect = isinstance(self._ask("POST", "flows/count", {}), int)
        if not self._is_prefect:
            raise ApiError(
                f"{self.url} is no Prefect API: it knows no flows",
                remedy="Set PREFECT_API_URL to one (it ends in /api).",
            )

    # -- changing --------------------------------------------------------------------------

    def cancel_flow_run(self, run: FlowRun, message: str = "") -> None:
        """Cancel a flow run. One that no worker has taken is cancelled at once, others go through Cancelling.

        Args:
            run: The flow run, with its present state.
            message: Message of its new state; "": none.
        """
        waits = run.state_type == "SCHEDULED"
        self.set_state(run.id, "CANCELLED" if waits else "CANCELLING", message, force=waits)

    def set_state(self, flow_run_id: str, state: StateType, message: str = "", force: bool = False) -> None:
        """Propose a state of a flow run.

        Args:
            flow_run_id: The flow run.
            state: Type of the state; its name is the type, capitalised.
            message: Message of the state; "": none.
            force: Set the state even where Prefect's orchestration rules would reject it.
        """
        body = {"state": {"type": state, "name": state.capitalize(), "message": message or None}, "force": force}
        self._ask("POST", f"flow_runs/{quote(flow_run_id, safe='')}/set_state", body)

    def pause_work_pool(self, name: str, paused: bool) -> None:
        """Pause or resume a work pool. A paused one gives workers no flow runs.

        Args:
            name: Name of the pool.
            paused: False: resume it.
        """
        self._ask("PATCH", f"work_pools/{quote(name, safe='')}", {"is_paused": paused})

    # -- requests --------------------------------------------------------------------------

    def _one(self, record: type[RecordT], path: str) -> RecordT | None:
        found = self._ask("GET", path)
        return None if found is None else self._read(TypeAdapter(record), found)

    def _all(self, record: type[RecordT], path: str, query: dict[str, Any] | None = None) -> list[RecordT]:
        def read(limit: int | None, offset: int) -> list[RecordT]:
            page = {"offset": offset} | ({"limit": limit} if limit is not None else {})
            rows = self._ask("POST", path, (query or {}) | page) or []
            return self._read(TypeAdapter(list[record]), rows)  # type: ignore[valid-type]

        return all_pages(read)

    def _read(self, shape: TypeAdapter[Row], found: Any) -> Row:
        try:
            return shape.validate_python(found)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ApiError(
                f"{self.url} answers what a Prefect API does not ({where}: {first['msg']})",
                remedy="Set PREFECT_API_URL to a Prefect API.",
            ) from None

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """JSON of an answer; None where it is empty or its status is 404."""
        try:
            answer = self._request(method, path, body)
            if answer.status_code == 403 and "CSRF" in answer.text:
                self._fetch_csrf_token()
                answer = self._request(method, path, body)
            if answer.status_code == 404:
                self.check_is_prefect()
                return None
            answer.raise_for_status()
            self._compare_clocks(answer)
            return answer.json() if answer.content else None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise api_error(error, self.url) or error from None
        except ValueError:
            raise ApiError(
                f"{self.url} answers something else than JSON",
                remedy="Set PREFECT_API_URL to a Prefect API (it ends in /api).",
            ) from None

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        """An answer; a request refused by a busy server, which changed nothing, is repeated after `BUSY_PAUSES`."""
        for pause in BUSY_PAUSES:
            answer = self._http.request(method, f"{self.url}/{path}", json=body)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return answer
            time.sleep(pause)
        return self._http.request(method, f"{self.url}/{path}", json=body)

    def _fetch_csrf_token(self) -> None:
        """Fetch the token that servers with PREFECT_SERVER_CSRF_PROTECTION_ENABLED require with every request."""
        client = str(uuid.uuid4())
        token = self._http.get(f"{self.url}/csrf-token", params={"client": client}).raise_for_status().json()["token"]
        self._http.headers.update({"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": token})

    def _compare_clocks(self, answer: httpx.Response) -> None:
        try:
            there = parsedate_to_datetime(answer.headers["date"]).timestamp() + 0.5
        except (KeyError, ValueError, TypeError):
            return
        difference = there - time.time()
        self.ahead = difference if abs(difference) > 2 else 0.0


def flow_run_query(
    *,
    states: Sequence[StateType] = (),
    ids: Sequence[str] = (),
    parents: Sequence[str] = (),
    tags: Sequence[str] = (),
    flow: str = "",
    pools: Sequence[str] = (),
    queue: str = "",
) -> dict[str, Any]:
    """A query for flow runs that meet all conditions given; a condition left out holds for every flow run.

    Args:
        states: Types of state, any of which a run has.
        ids: Ids of flow runs.
        parents: Ids of flow runs, one of which is the parent.
        tags: Tags, all of which a run has.
        flow: Name of its flow.
        pools: Names of work pools, in one of which it is.
        queue: Name of its work queue.

    Returns:
        Body of a request to ``flow_runs/filter`` or ``flow_runs/count``.

    Example:
        >>> flow_run_query(states=["RUNNING"], pools=["gpu"])
        {'flow_runs': {'state': {'type': {'any_': ['RUNNING']}}}, 'work_pools': {'name': {'any_': ['gpu']}}}
    """
    runs: dict[str, Any] = {"state": {"type": {"any_": list(states)}}} if states else {}
    runs |= {name: {"any_": list(some)} for name, some in (("id", ids), ("parent_flow_run_id", parents)) if some}
    runs |= {"tags": {"all_": list(tags)}} if tags else {}
    named = (("flows", [flow] if flow else []), ("work_pools", pools), ("work_pool_queues", [queue] if queue else []))
    return {"flow_runs": runs} | {table: {"name": {"any_": list(names)}} for table, names in named if names}


def _headers(url: str) -> dict[str, str]:
    """Headers for the API at `url`. Secrets of the configured API go to no other, since `url` may come from a run's folder.

    As in Prefect's client, custom headers override the key.
    """
    credential = credential_for(url)
    headers = {"Authorization": credential.header} if credential is not None else {}
    found = api_settings()
    if not same_api(url, found.url):
        return headers
    return headers | {name: value for name, value in found.custom_headers.items() if name.lower() not in _PROTECTED}


def _verify() -> bool | ssl.SSLContext:
    found = api_settings()
    if found.tls_insecure_skip_verify:
        return False
    if not found.ssl_cert_file:
        return True
    try:
        return ssl.create_default_context(cafile=found.ssl_cert_file)
    except (OSError, ssl.SSLError) as error:
        raise ApiError(
            f"{found.ssl_cert_file} (PREFECT_API_SSL_CERT_FILE or SSL_CERT_FILE): no certificates can be read there ({error})",
            remedy="Set it to a file of certificates, or unset it.",
        ) from None
