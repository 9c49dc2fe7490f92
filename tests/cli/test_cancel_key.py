"""`coral cancel` on a folder that anybody may have written: the user's key goes to the configured API alone."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from uuid import uuid4

import pytest


@pytest.mark.parametrize("configured", [True, False])
def test_the_key_goes_to_the_configured_api_alone(tmp_path: Path, configured: bool) -> None:
    heard: list[str | None] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers.get("Authorization"))
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/api"
    run = tmp_path / "somebodys-run-e1"
    run.mkdir()
    facts = {"schema_version": 1, "pid": 1, "host": "elsewhere", "flow_run_id": str(uuid4()), "api": url}
    identity = {"run_id": run.name, "config_digest": "0" * 64, "edition": 1, "run_seed": 0}
    (run / "run.json").write_text(json.dumps(facts | {"identity": identity}))
    (run / "config.yaml").write_text(f"name: x\nstore: {{path: {tmp_path / 'store'}}}\n")
    (run / "history.jsonl").write_text("")
    environment = {
        **os.environ,
        "PREFECT_API_KEY": "pnu_secret",
        "PREFECT_API_URL": url if configured else "http://127.0.0.1:9/api",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "CORAL_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-m", "flows.cli", "cancel", str(run), "--wait", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    server.shutdown()
    assert heard, done.stdout + done.stderr
    assert set(heard) == ({"Bearer pnu_secret"} if configured else {None})
    assert ("asked without your API key" in done.stdout) is not configured


def test_a_run_whose_facts_cannot_be_read_is_not_called_stopped(tmp_path: Path) -> None:
    run = tmp_path / "somebodys-run-e1"
    run.mkdir()
    (run / "run.json").write_text('{"flow_run_id": 7}')
    (run / "config.yaml").write_text("name: x\n")
    command = [sys.executable, "-m", "flows.cli", "cancel", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 3 and "stopped" not in done.stdout
    assert f"error: {run / 'run.json'}: is missing or broken" in done.stderr
