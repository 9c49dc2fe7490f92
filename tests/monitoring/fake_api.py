"""A small HTTP server that answers as a Prefect 3.8 API does, for what our commands ask; tests bend the answers."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from flows.installation.pool_templates import DEPLOYMENTS, POOLS, Place, automation_files, template


def ago(seconds: float) -> str:
    """A time of the past, as the API writes it."""
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


class FakeApi:
    """What the API knows. A healthy installation to begin with."""

    def __init__(self) -> None:
        place = Place(workdir="/work")
        self.version = "3.8.8"
        self.status = 200
        self.pools: dict[str, dict[str, Any]] = {
            spec.name: {
                "name": spec.name,
                "type": "process",
                "concurrency_limit": spec.limit,
                "is_paused": False,
                "base_job_template": template(spec, place),
            }
            for spec in POOLS
        }
        self.workers: dict[str, list[dict[str, Any]]] = {spec.name: [self.worker("w1", 12)] for spec in POOLS}
        self.deployments: dict[str, dict[str, Any]] = {
            name: {"work_pool_name": pool, "work_queue_name": "default", "paused": False}
            for name, pool in DEPLOYMENTS.items()
        }
        self.queues: dict[str, dict[str, Any]] = {
            spec.name: {"name": "default", "is_paused": False, "concurrency_limit": None, "polled": 2} for spec in POOLS
        }
        self.page = 200
        """PREFECT_SERVER_API_DEFAULT_LIMIT"""
        self.automations = [{"name": each["name"], "enabled": True} for each in automation_files()]
        self.counts = 0
        self.flow_runs: list[dict[str, Any]] = []
        self.artifacts: list[dict[str, Any]] = []
        self.logs: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.keys: list[str | None] = []

    @staticmethod
    def worker(name: str, silent: float, status: str = "ONLINE") -> dict[str, Any]:
        return {"name": name, "silent": silent, "heartbeat_interval_seconds": 30, "status": status}

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        """JSON for a request; None: not there."""
        if path == "admin/version":
            return self.version
        if path == "work_pools/filter":
            return list(self.pools.values())
        if path.startswith("work_pools/") and "/queues/" in path:
            queue = self.queues.get(path.split("/")[1])
            polled = {"last_polled": ago(queue["polled"]) if queue["polled"] is not None else None} if queue else {}
            return queue and queue | polled
        if path.startswith("work_pools/") and path.count("/") == 1:
            return self.pools.get(path.split("/")[1])
        if path.endswith("/workers/filter"):
            return [w | {"last_heartbeat_time": ago(w["silent"])} for w in self.workers.get(path.split("/")[1], [])]
        if path.startswith("deployments/name/"):
            return self.deployments.get(path.removeprefix("deployments/name/"))
        if path == "automations/filter":
            return self.automations
        if path == "flows/count":
            return 4
        if path == "flow_runs/count":
            return self.counts
        if path == "artifacts/filter":
            return self.artifacts
        if path.startswith("flow_runs/") and path != "flow_runs/filter":
            return next((run for run in self.flow_runs if run["id"] == path.split("/")[1]), None)
        if path == "flow_runs/filter":
            return self._some(body)
        if path == "logs/filter":
            ids = body["logs"]["flow_run_id"]["any_"]
            wanted = [
                row for row in self.logs if row["flow_run_id"] in ids and row["level"] >= body["logs"]["level"]["ge_"]
            ]
            span = body["logs"].get("timestamp", {})
            after, before = span.get("after_", "0"), span.get("before_", "9")
            wanted = [row for row in wanted if after <= row["timestamp"] <= before]
            return wanted
        return None

    def _some(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        query = body.get("flow_runs", {})
        if "id" in query:
            found = [run for run in self.flow_runs if run["id"] in query["id"]["any_"]]
        elif "parent_flow_run_id" in query:
            found = [run for run in self.flow_runs if run.get("parent") in query["parent_flow_run_id"]["any_"]]
        else:
            found = [run for run in self.flow_runs if "coral-lane" in run.get("tags", [])]
        return found


@contextmanager
def serving(fake: FakeApi) -> Iterator[str]:
    """Serve `fake`; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

        def _reply(self, body: dict[str, Any]) -> None:
            path = self.path.removeprefix("/api/")
            fake.asked.append(path)
            fake.keys.append(self.headers.get("Authorization"))
            found = fake.answer(path, body) if fake.status == 200 else {"detail": "no"}
            status = fake.status if found is not None else 404
            if isinstance(found, list):
                offset, limit = body.get("offset", 0), body.get("limit", fake.page)
                found = found[offset : offset + limit]
                if limit > fake.page:
                    status, found = 422, {"detail": f"Invalid limit: must be less than or equal to {fake.page}."}
            data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["content-length"])) or "{}"))

        def do_PATCH(self) -> None:
            self.do_POST()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api"
    finally:
        server.shutdown()
        server.server_close()
