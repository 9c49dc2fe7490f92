"""What keeps work pools from working is said in words that name the fix; templates leave nothing open."""

import asyncio
import json
import os
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import AsyncMock

import kubernetes_validate
import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled
from prefect.workers.process import ProcessJobConfiguration

from coral_core.devices import fits
from flows.installation.pool_templates import DEPLOYMENTS, POOLS, Place, template
from flows.work_pools.fleet import FLOWS
from tests import warm_commands
from tests.pools.conftest import Pools
from tests.waiting import until

ROOT = Path(__file__).parents[2]
MORE = pytest.mark.slow(reason="a command each; make test has two other options")
PLACE = Place(workdir="/work", api_url="http://api:4200/api")


@pytest.mark.parametrize("infrastructure", ["process", "docker", "kubernetes"])
@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool.name)
def test_templates_leave_only_a_name_open(infrastructure: Any, pool: Any) -> None:
    rendered = template(pool, PLACE.model_copy(update={"infrastructure": infrastructure}))
    assert set(rendered["variables"]["properties"]) == {"name"}
    text = json.dumps(rendered["job_configuration"])
    assert "${" not in text
    assert {part.split("}}")[0].strip() for part in text.split("{{")[1:]} == {"name"}


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool.name)
def test_kubernetes_manifests_are_valid(pool: Any) -> None:
    """By the schemas that Kubernetes publishes; there is no cluster here to try them on."""
    rendered = template(pool, PLACE.model_copy(update={"infrastructure": "kubernetes"}))
    manifest = rendered["job_configuration"]["job_manifest"]
    for version in ("1.29", "1.31"):
        kubernetes_validate.validate(manifest, version, strict=True)
    manifest["spec"]["template"]["spec"]["containers"][0]["imagePullPolicies"] = "Never"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, "1.31", strict=True)


@pytest.mark.server
@pytest.mark.parametrize("variables", [{"command": "touch /tmp/x"}, {"env": {"LD_PRELOAD": "x"}}, {"image": "x"}])
def test_the_server_refuses_other_job_variables(pools: Pools, variables: Any) -> None:
    with temporary_settings({PREFECT_API_URL: pools.url}), get_client(sync_client=True) as client:
        needed: dict[str, dict[str, Any]] = {name: {"store": "/store"} for name in DEPLOYMENTS}
        needed |= {"evolve/evolve": {}, "test-patches/test-patches": {"patches": []}}
        for name, parameters in needed.items():
            deployment = client.read_deployment_by_name(name)
            with pytest.raises(PrefectHTTPStatusError, match="Additional properties are not allowed"):
                client.create_flow_run_from_deployment(
                    deployment.id, parameters=parameters, job_variables=variables, state=Scheduled()
                )


def test_workers_take_nothing_but_the_name_from_job_variables() -> None:
    """Also where a server would let them through, as in a changed deployment that is on a schedule."""
    hostile = {"name": "mine", "command": "touch /tmp/x", "working_dir": "/", "labels": {"a": "b"}}
    rendered = template(POOLS[0], PLACE)
    config = asyncio.run(ProcessJobConfiguration.from_template_and_values(rendered, hostile, client=AsyncMock()))
    assert (config.command, str(config.working_dir), config.name) == (None, "/work", "mine")
    assert config.labels == {"coral-pool": "coral-control"}


def test_docker_lanes_get_a_gpu_memory_and_no_privileges() -> None:
    by_name = {p.name: template(p, PLACE.model_copy(update={"infrastructure": "docker"})) for p in POOLS}
    lane, control = by_name["coral-a100"]["job_configuration"], by_name["coral-control"]["job_configuration"]
    assert lane["mem_limit"] == "16g" and by_name["coral-a10g"]["job_configuration"]["mem_limit"] == "4g"
    assert lane["container_create_kwargs"]["device_requests"] == [{"count": -1, "capabilities": [["gpu"]]}]
    assert lane["env"]["CORAL_LANE_GPU"] == "A100-40GB" and control["env"]["CORAL_LANE_GPU"] == ""
    assert "device_requests" not in control["container_create_kwargs"] and lane["privileged"] is False
    assert lane["container_create_kwargs"]["cap_drop"] == ["ALL"] and lane["volumes"] == ["/data:/data"]
    assert control["container_create_kwargs"]["working_dir"] == "/data", "relative paths outlive the container"
    from docker.types import HostConfig  # what the worker builds of it

    given = {k: v for k, v in lane["container_create_kwargs"].items() if k != "working_dir"}
    built = HostConfig(version="1.41", **given, mem_limit=lane["mem_limit"], privileged=lane["privileged"])
    assert built["DeviceRequests"][0]["Count"] == -1 and built["CapDrop"] == ["ALL"]


def test_kubernetes_lanes_ask_for_a_gpu_and_run_as_nobody_special() -> None:
    rendered = template(POOLS[1], PLACE.model_copy(update={"infrastructure": "kubernetes"}))
    spec = rendered["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": "1"}
    assert container["workingDir"] == "/app"
    assert spec["securityContext"]["runAsNonRoot"] and spec["tolerations"][0]["key"] == "nvidia.com/gpu"


def rule(pool: Any, **changes: Any) -> Any:
    """What a node must have to get a lane of `pool`."""
    rendered = template(pool, PLACE.model_copy(update={"infrastructure": "kubernetes"} | changes))
    manifest = rendered["job_configuration"]["job_manifest"]
    kubernetes_validate.validate(manifest, "1.31", strict=True)
    affinity = manifest["spec"]["template"]["spec"]["affinity"]
    if not affinity:
        return None
    required = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return required["nodeSelectorTerms"][0]["matchExpressions"][0]


def test_kubernetes_lanes_go_to_nodes_by_the_labels_that_nodes_have() -> None:
    """GPU feature discovery writes what nvidia-smi says, with hyphens: never A100-40GB."""
    a100 = {"key": "nvidia.com/gpu.product", "operator": "In"}
    assert rule(POOLS[1]) == a100 | {"values": ["NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"]}
    assert rule(POOLS[2]) == a100 | {"values": ["NVIDIA-A10G"]}
    assert all(fits(name, pool.gpu) for pool in POOLS[1:] for name in rule(pool)["values"])
    assert rule(POOLS[0]) is None and rule(POOLS[1], gpus=False) is None
    own = {"coral-a100": "cloud.google.com/gke-accelerator=nvidia-tesla-a100"}
    assert rule(POOLS[1], node_labels=own) == {
        "key": "cloud.google.com/gke-accelerator",
        "operator": "In",
        "values": ["nvidia-tesla-a100"],
    }
    assert rule(POOLS[2], node_labels=own)["values"] == ["NVIDIA-A10G"]


def test_weights_are_kept_on_the_store_and_the_token_in_no_template() -> None:
    docker = template(POOLS[1], PLACE.model_copy(update={"infrastructure": "docker", "token_file": "/etc/coral/token"}))
    lane = docker["job_configuration"]
    assert lane["env"]["HF_HOME"] == "/data/huggingface" and lane["env"]["HF_TOKEN_PATH"] in lane["volumes"][1]
    assert lane["volumes"] == ["/data:/data", "/etc/coral/token:/run/secrets/huggingface-token:ro"]
    without = template(POOLS[1], PLACE.model_copy(update={"infrastructure": "docker"}))["job_configuration"]
    assert "HF_TOKEN_PATH" not in without["env"], "empty it would be taken for a path"
    secret = PLACE.model_copy(update={"infrastructure": "kubernetes", "token_secret": "hub"})
    job = template(POOLS[2], secret)["job_configuration"]
    (container,) = job["job_manifest"]["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}}]
    kubernetes_validate.validate(job["job_manifest"], "1.31", strict=True)
    assert job["env"]["HF_HOME"] == "/data/huggingface"
    control = template(POOLS[0], secret)["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert control["containers"][0]["env"] == [], "evolutions fetch no weights"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--training-node-label", "a100"], "--training-node-label a100: is not a label of a node"),
        pytest.param(
            ["--evaluation-node-label", "a b=c"], "--evaluation-node-label a b=c: is not a label of a node", marks=MORE
        ),
        (["--token-file", "/etc/token"], "--token-file /etc/token: is for --type docker"),
        pytest.param(["--type", "docker", "--token-file", "token"], "an absolute path", marks=MORE),
    ],
)
def test_options_of_set_up_that_say_nothing(options: list[str], words: str, tmp_path: Path) -> None:
    result = coral(
        os.environ | {"CORAL_HOME": str(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:9/api"}, "setup", *options
    )
    assert result.returncode == 2 and words in result.stderr, result.stderr


def coral(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return warm_commands.run([*arguments], environment=environment)


@pytest.mark.slow(reason="three commands and their retries")
def test_an_api_that_is_not_there(pools: Pools) -> None:
    environment = pools.environment | {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    evolve = ["evolve", str(ROOT / "configs" / "quickstart.yaml"), "--executor", "work-pools"]
    evolve += ["--set", f"store.path={pools.store.root}", "--set", f"runs={pools.runs}"]
    for command in (["status"], ["setup", "--dry-run"], evolve):
        result = coral(environment, *command)
        assert result.returncode == 6, result.stdout + result.stderr
        assert "http://127.0.0.1:9/api cannot be reached" in result.stderr and "coral up" in result.stderr


@pytest.mark.slow(reason="two refused runs")
@pytest.mark.server
def test_a_missing_deployment_is_named(pools: Pools) -> None:
    for kind in FLOWS:
        name = f"{FLOWS[kind]}/nobody"
        result = pools.evolve(**{f"infra__{kind}__deployment": name})
        assert result.returncode == 2, result.stderr
        assert f"infra.{kind}.deployment: {name}: no such deployment" in result.stderr
        assert "coral setup" in result.stderr


@pytest.mark.slow(reason="a run that waits for a worker")
@pytest.mark.server
def test_no_worker_is_said_and_work_goes_on_when_one_comes(pools: Pools) -> None:
    """A pool that nobody serves: the evolution says so within 15 seconds and waits."""
    import time

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolUpdate
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: pools.url}), get_client(sync_client=True) as client:
        client.update_work_pool("coral-a100", WorkPoolUpdate(is_paused=True))
        try:
            started = time.monotonic()
            run = pools.start()
            lines: list[str] = []
            assert run.stdout is not None
            for line in run.stdout:
                lines.append(line)
                if "is paused. Resume it with: prefect work-pool resume coral-a100" in line:
                    break
            assert "paused" in lines[-1], "".join(lines)
            asked = until(lambda: pools.queue().waiting(next(iter(pools.queue().runs()))), 5)
            assert asked and time.monotonic() - started < 60
        finally:
            client.update_work_pool("coral-a100", WorkPoolUpdate(is_paused=False))
    out, _ = run.communicate(timeout=600)
    assert run.returncode == 0, "".join(lines) + out


@pytest.mark.server
def test_a_lane_that_sees_another_store_says_so(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine without the shared mount would do: refuse before the first job, and name the fix."""
    from flows.lane import train_adapters

    pools.store.prepare()
    pools.queue().prepare()
    pools.queue().installation()
    from coral_core.errors import ConfigError, StoreError

    with pytest.raises(StoreError, match=r"is not the store of the evolution .* Mount the same directory"):
        train_adapters.fn(str(pools.store.root), installation="another")
    with pytest.raises(ConfigError, match="Install one version of both on every machine"):
        train_adapters.fn(str(pools.store.root), code="0.0.0")


class _Closed(BaseHTTPRequestHandler):
    """Answers as a Prefect server does to a key that it does not know: healthy, and 401 to everything else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path.endswith("/health") else 401)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


def test_a_wrong_api_key_is_said(pools: Pools) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Closed)
    Thread(target=server.serve_forever, daemon=True).start()
    environment = pools.environment | {"PREFECT_API_URL": f"http://127.0.0.1:{server.server_port}/api"}
    evolve = ["evolve", str(ROOT / "configs" / "quickstart.yaml"), "--executor", "work-pools"]
    evolve += ["--set", f"store.path={pools.store.root}", "--set", f"runs={pools.runs}"]
    try:
        for command in (["status"], ["setup", "--dry-run"], ["drain", "coral-a100"], evolve):
            result = coral(environment | {"PREFECT_API_KEY": "pnu_secret"}, *command)
            assert result.returncode == 6, result.stdout + result.stderr
            assert "refuses the key (401). It was sent that of PREFECT_API_KEY" in result.stderr
            assert "pnu_secret" not in result.stdout + result.stderr
    finally:
        server.shutdown()


@pytest.mark.slow(reason="a run whose lane must fail")
@pytest.mark.server
@pytest.mark.torch
def test_a_worker_without_the_base_model_is_named(pools: Pools) -> None:
    pytest.importorskip("torch")
    model = pools.folder / "model"
    shutil.copytree(ROOT / "coral_core" / "lm" / "tiny", model)
    run = pools.start(base_model__name=str(model), generation__prompt_length="192")
    until(lambda: list(pools.runs.glob("*/run.json")), 60)
    shutil.rmtree(model)
    out, _ = run.communicate(timeout=600)
    assert run.returncode == 2, out
    assert str(model) in out and "lane" in out, out
