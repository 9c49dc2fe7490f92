"""The three work pools, and their base job templates (`deployments/pools`) for three kinds of infrastructure.

Rendering a template fixes everything that job variables of a flow run could change: command, image, volumes, environment,
privileges. The only variable left is a name. Users who may write pools or deployments can change all of it
(docs/security.md).
"""

import json
import re
import string
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from coral_core.digest import digest
from coral_core.errors import ConfigError
from coral_core.frozen import Frozen

Infrastructure = Literal["process", "docker", "kubernetes"]
PullPolicy = Literal["IfNotPresent", "Always", "Never"]
FILES = Path(__file__).parent
"""Holds `pools/`, `automations/` and `prefect.yaml`: links into `deployments/` in a checkout, files in a wheel."""


class PoolSpec(Frozen):
    """One work pool of `coral setup`."""

    name: str
    limit: int = Field(ge=1, description="Flow runs at a time.")
    gpu: str = Field("", description="GPU model that its lanes need; empty: no GPU.")
    memory_gb: int = Field(ge=1, description="Memory per flow run, in GB.")
    description: str


POOLS = (
    PoolSpec(name="coral-control", limit=4, memory_gb=4, description="Evolutions: search and bookkeeping, no GPU."),
    PoolSpec(
        name="coral-a100", limit=2, gpu="A100-40GB", memory_gb=16, description="Training lanes: A100-40GB, 16 GB."
    ),
    PoolSpec(name="coral-a10g", limit=3, gpu="A10G", memory_gb=4, description="Evaluation and test lanes: A10G, 4 GB."),
)

DEPLOYMENTS = {
    "evolve/evolve": "coral-control",
    "train-adapters/train-adapters": "coral-a100",
    "evaluate-genomes/evaluate-genomes": "coral-a10g",
    "test-patches/test-patches": "coral-a10g",
}
"""Deployments of `prefect.yaml` by full name, each with its pool."""

GPU_PRODUCT = "nvidia.com/gpu.product"
"""Label of Kubernetes nodes that NVIDIA's GPU feature discovery sets."""
PRODUCTS = {
    "A100-40GB": ("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"),
    "A10G": ("NVIDIA-A10G",),
}
"""GPU model -> values of that label: the names that nvidia-smi shows, with hyphens."""
TOKEN = "/run/secrets/huggingface-token"


class Place(Frozen):
    """Options that the templates are rendered with."""

    infrastructure: Infrastructure = "process"
    workdir: str = Field(description="Where processes start (process only).")
    store: str = Field("/data", description="Directory that holds runs and store, the same path everywhere.")
    api_url: str = Field("", description="The API as containers reach it.")
    control_image: str = "coral-x-control:latest"
    lane_image: str = "coral-x-lane:latest"
    pull_policy: PullPolicy = "IfNotPresent"
    network: str = Field("bridge", description="Docker network mode.")
    namespace: str = "coral"
    claim: str = Field("coral-store", description="Persistent volume claim (kubernetes only).")
    node_labels: dict[str, str] = Field(
        {}, description="Pool -> KEY=VALUE[,VALUE] of its nodes; else GPU feature discovery's (kubernetes only)."
    )
    token_file: str = Field("", description="File of every Docker host with a Hugging Face token (docker only).")
    token_secret: str = Field("", description="Secret whose key HF_TOKEN holds it (kubernetes only).")
    code_roots: str = Field(
        "",
        description="Folders whose code flow runs may run, separated as in PATH (containers; coral_core/lanes/allowed_paths.py).",
    )
    missing_layers: str = Field("", description="Sandbox layers that may be missing, with commas (containers).")
    gpus: bool = Field(True, description="False: lanes run without a GPU (trials).")


RECORD = "coral"
"""Key of a template that holds its `Record`. Prefect itself reads only `job_configuration` and `variables`."""


class Drift(StrEnum):
    """Kinds of difference between a pool's template and that of `coral setup` of this version; the values follow its name."""

    NO_RECORD = "holds no record of coral setup that can be read"
    CHANGED = "was changed after coral setup wrote it"
    OTHER_TYPE = "was written for a pool of another type"
    OTHER_VERSION = "was written by a version that renders another"


class Record(Frozen):
    """The record that `coral setup` stores in a template when it writes it."""

    version: str = Field(description="Version of CORAL-X that rendered it.")
    sha256: str = Field(description="Digest of the template without this record.")
    place: Place = Field(description="Options that it was rendered with.")


def automation_files() -> list[dict[str, Any]]:
    """The automations of `deployments/automations`, with their placeholders, sorted by file name."""
    return [json.loads(file.read_text("utf-8")) for file in sorted((FILES / "automations").glob("*.json"))]


def template(pool: PoolSpec, place: Place) -> dict[str, Any]:
    """Render the base job template of a pool.

    Args:
        pool: The pool.
        place: Options that it is rendered with.

    Returns:
        The template, with its `Record` under the key `RECORD`.
    """
    rendered = _rendered(pool, place)
    record = Record(version=version("coral-x"), sha256=digest(rendered), place=place)
    return rendered | {RECORD: record.model_dump(mode="json")}


def recorded(pool: str, found: dict[str, Any]) -> Place:
    """The options that a template was rendered with, from its record.

    Args:
        pool: Name of the pool; stands in the error.
        found: Base job template of the pool, as the server has it.

    Raises:
        ConfigError: The template holds no record that can be read.
    """
    if (record := _record(found)) is None:
        raise ConfigError(
            f"work pool {pool}: its template holds no options of coral setup that can be read (--as-installed)",
            remedy="Run coral setup with the options of your set-up.",
        )
    return record.place


def drift(pool: PoolSpec, type_: str, found: dict[str, Any]) -> Drift | None:
    """Compare a template with the one that this version renders for its recorded options.

    Args:
        pool: The pool.
        type_: Type of the pool on the server (process, docker, kubernetes).
        found: Base job template of the pool, as the server has it.

    Returns:
        The difference; None when there is none.
    """
    record, body = _record(found), {key: value for key, value in found.items() if key != RECORD}
    if record is None:
        return Drift.NO_RECORD
    try:
        if digest(body) != record.sha256:
            return Drift.CHANGED
    except (TypeError, ValueError):  # cannot come from a rendered template
        return Drift.CHANGED
    if record.place.infrastructure != type_:
        return Drift.OTHER_TYPE
    return Drift.OTHER_VERSION if body != _rendered(pool, record.place) else None


def _record(found: dict[str, Any]) -> Record | None:
    try:
        return Record.model_validate(found.get(RECORD))
    except ValueError:
        return None


def _rendered(pool: PoolSpec, place: Place) -> dict[str, Any]:
    file = FILES / "pools" / f"{place.infrastructure}.json"
    gpu = bool(pool.gpu) and place.gpus
    memory = f"{pool.memory_gb}g" if place.infrastructure == "docker" else f"{pool.memory_gb}Gi"
    # evolutions start in the store's folder: their relative paths (runs, runs/store) must outlive the container.
    # Lanes get absolute paths. Started in the store, they could not report that it cannot be entered
    start_in = "/app" if pool.gpu else place.store
    values: dict[str, Any] = {
        **place.model_dump(),
        "pool": pool.name,
        "start_in": start_in,
        "image": place.lane_image if pool.gpu else place.control_image,
        "memory": memory,
        "lane_gpu": pool.gpu if gpu else "",
    }
    values |= _docker(place, start_in, gpu) | _kubernetes(pool, place, memory, gpu)
    rendered: dict[str, Any] = filled(json.loads(file.read_text("utf-8")), values)
    if pool.gpu and place.token_file:
        rendered["job_configuration"]["env"]["HF_TOKEN_PATH"] = TOKEN
        rendered["job_configuration"]["volumes"].append(f"{place.token_file}:{TOKEN}:ro")
    return rendered


def _docker(place: Place, start_in: str, gpu: bool) -> dict[str, Any]:
    """Values that only the template of docker pools needs."""
    container: dict[str, Any] = {"ipc_mode": "private", "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
    container["working_dir"] = start_in
    if gpu:
        # all GPUs, since with a count of 1 Docker gives every container the first; a lane picks one (coral_core/lanes/gpu.py)
        container |= {"device_requests": [{"count": -1, "capabilities": [["gpu"]]}], "shm_size": "2g"}
    return {"container": container, "volumes": [f"{place.store}:{place.store}"]}


def _kubernetes(pool: PoolSpec, place: Place, memory: str, gpu: bool) -> dict[str, Any]:
    """Values that only the template of kubernetes pools needs."""
    limits = {"memory": memory} | ({"nvidia.com/gpu": "1"} if gpu else {})
    own = place.node_labels.get(pool.name) or (f"{GPU_PRODUCT}={','.join(PRODUCTS[pool.gpu])}" if gpu else "")
    key, _, products = own.partition("=")
    wanted = {"matchExpressions": [{"key": key, "operator": "In", "values": products.split(",")}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [wanted]}}
    secret = {"name": place.token_secret, "key": "HF_TOKEN"}
    return {
        "resources": {"limits": limits, "requests": {"memory": memory}},
        "affinity": {"nodeAffinity": required} if own else {},
        # GPU nodes often carry this taint
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] if gpu else [],
        "secrets": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": secret}}]
        if pool.gpu and place.token_secret
        else [],
    }


def filled(node: Any, values: dict[str, Any]) -> Any:
    """Replace each ``${name}`` in the strings of a JSON document by its value.

    Args:
        node: JSON value; lists and objects are filled recursively, keys stay.
        values: Name -> value. A string that consists of one placeholder becomes the value itself, of any type.

    Returns:
        A copy of `node` without placeholders.

    Raises:
        KeyError: `values` lacks a name.

    Example:
        >>> filled({"command": "run ${pool}", "limit": "${limit}"}, {"pool": "gpu", "limit": 2})
        {'command': 'run gpu', 'limit': 2}
    """
    if isinstance(node, dict):
        return {key: filled(child, values) for key, child in node.items()}
    if isinstance(node, list):
        return [filled(child, values) for child in node]
    if not isinstance(node, str) or "${" not in node:
        return node
    whole = re.fullmatch(r"\$\{(\w+)\}", node)
    return values[whole[1]] if whole else string.Template(node).substitute(values)
