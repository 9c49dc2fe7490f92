"""`coral setup`, `up`, `down` and `drain`: set up and stop the installation that work pools need."""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from coral_core.errors import ConfigError
from flows.installation.local_stack import use_api
from flows.installation.pool_templates import Infrastructure, Place, PullPolicy
from flows.prefect_api.local_server import key_file
from flows.prefect_api.settings import ui_url, without_secrets

if TYPE_CHECKING:
    from flows.installation.notices import Notices
    from flows.installation.server_setup import Step

console = Console(highlight=False, soft_wrap=True, markup=False)
Flag = Annotated[bool, Parameter(negative=())]


@Parameter(name="*")
@dataclass(frozen=True)
class Notify:
    """Options of notices; values that are not given stay as installed.

    Attributes:
        notify_url: URL that notices are posted to, as JSON with a text.
        notify_block: TYPE/NAME of a notification block in place of a URL; none: no notices.
        no_progress_minutes: Minutes without a finished job after which a notice is sent; 45 at first.
    """

    notify_url: Annotated[str | None, Parameter(env_var="CORAL_NOTIFY_URL")] = None
    notify_block: str | None = None
    no_progress_minutes: float | None = None

    def notices(self) -> "Notices":
        from pydantic import SecretStr

        from flows.installation.notices import Notices

        return Notices(
            url=SecretStr(self.notify_url) if self.notify_url else None,
            block=self.notify_block,
            no_progress_minutes=self.no_progress_minutes,
        )


LEAVE_SECONDS = 15.0
"""Longest wait of `coral down` for cancelled evolutions to send their last log lines to the server."""
LABEL = re.compile(r"[\w./-]+=[A-Za-z0-9][\w.-]*(,[A-Za-z0-9][\w.-]*)*")
LOOPBACK = re.compile(r"https?://(localhost|127\.|\[::1\]|0\.0\.0\.0)")


@Parameter(name="*")
@dataclass(frozen=True)
class PoolOptions:
    """Options of pools, with which their templates are rendered.

    Attributes:
        type: What lanes run in.
        workdir: Where processes start; this folder by default.
        store: Folder of runs and store in every container.
        api_url: The API as containers reach it.
        control_image: Image of evolutions.
        lane_image: Image of lanes.
        pull_policy: When images are pulled.
        network: Docker network mode.
        token_file: File of each Docker host that holds lanes' Hugging Face token, readable for user 1000.
        namespace: Kubernetes namespace of lanes.
        claim: Kubernetes volume claim that holds the store.
        training_node_label: KEY=VALUE[,VALUE] of the nodes that train, in place of GPU feature discovery's for A100s.
        evaluation_node_label: The same of the nodes that evaluate, in place of GPU feature discovery's for A10Gs.
        token_secret: Secret whose key HF_TOKEN holds lanes' Hugging Face token.
        code_root: Folder in containers whose code may be run (sources package, quixbugs; an interpreter for vLLM); repeatable.
        allow_missing_layer: Sandbox layer that a configuration may do without (landlock, seccomp); repeatable.
        gpus: Lanes use GPUs, one each.
    """

    type: Infrastructure = "process"
    workdir: Path | None = None
    store: str = "/data"
    api_url: str | None = None
    control_image: str = "coral-x-control:latest"
    lane_image: str = "coral-x-lane:latest"
    pull_policy: PullPolicy = "IfNotPresent"
    network: str = "bridge"
    token_file: str = ""
    namespace: str = "coral"
    claim: str = "coral-store"
    training_node_label: str = ""
    evaluation_node_label: str = ""
    token_secret: str = ""
    code_root: Annotated[list[str] | None, Parameter(negative=())] = None
    allow_missing_layer: Annotated[list[str] | None, Parameter(negative=())] = None
    gpus: bool = True

    def place(self, url: str) -> Place:
        """The options that templates are rendered with.

        Args:
            url: The configured API; containers use it unless `api_url` is given.

        Raises:
            ConfigError: Options contradict each other, or a value is malformed.
        """
        code, layers = (list(filter(None, given or ())) for given in (self.code_root, self.allow_missing_layer))
        api_url = (
            "" if self.type == "process" else self.api_url or url
        )  # processes inherit the address from their worker
        for problem, remedy in self._mistakes(code, layers, api_url):
            raise ConfigError(problem, remedy=remedy)
        labels = {"coral-a100": self.training_node_label, "coral-a10g": self.evaluation_node_label}
        return Place(
            infrastructure=self.type,
            workdir=str((self.workdir or Path.cwd()).absolute()),
            node_labels={pool: label for pool, label in labels.items() if label},
            code_roots=":".join(code),
            missing_layers=",".join(layers),
            api_url=api_url,
            **{name: getattr(self, name) for name in HANDED_ON},
        )

    def _mistakes(self, code: list[str], layers: list[str], api_url: str) -> Iterator[tuple[str, str]]:
        """Problem and remedy of each wrong option."""
        paths = [("--code-root", folder) for folder in code]
        if self.type == "process":
            known = [(option, value, "CORAL_ROOTS_CODE") for option, value in paths]
            known += [("--allow-missing-layer", layer, "CORAL_ALLOW_MISSING_LAYERS") for layer in layers]
            for option, value, variable in known:
                remedy = f"Flow runs that are processes have {variable} of their worker's environment: set it there."
                yield f"{option} {value}: is for containers", remedy
        else:  # no colon: it separates host and container path, and the items of a list
            for option, path in [("--store", self.store), *paths]:
                if not path.startswith("/") or ":" in path:
                    yield f"{option} {path}: is a path in containers", "Give an absolute path without a colon."
        for layer in layers:
            if layer not in ("landlock", "seccomp"):
                yield f"--allow-missing-layer {layer}: cannot be done without", "Known: landlock, seccomp."
        if self.token_file and (self.type != "docker" or not self.token_file.startswith("/")):
            problem = f"--token-file {self.token_file}: is for --type docker, and an absolute path"
            yield problem, "On Kubernetes name a secret (--token-secret); lanes that are processes have HF_TOKEN of their worker."  # fmt: skip
        for kind, label in (("training", self.training_node_label), ("evaluation", self.evaluation_node_label)):
            if label and not LABEL.fullmatch(label):
                remedy = "Give KEY=VALUE or KEY=VALUE,VALUE, as kubectl get nodes --show-labels writes them."
                yield f"--{kind}-node-label {label}: is not a label of a node", remedy
        if (clean := without_secrets(api_url)) != api_url:
            problem = f"--api-url {clean}: a user name, a password or a query stands in the address, and everybody who sees the pools would read it"
            yield problem, "Give the address alone; workers get the key from PREFECT_API_AUTH_STRING or PREFECT_API_KEY in their environment."  # fmt: skip
        isolated = self.type == "kubernetes" or (self.type == "docker" and self.network != "host")
        if isolated and LOOPBACK.match(api_url):
            remedy = "Give the API's address as they reach it" + (
                ", or --network host." if self.type == "docker" else "."
            )
            yield f"--api-url {api_url}: is the container itself for lanes in one", remedy


HANDED_ON = (
    "store", "control_image", "lane_image", "pull_policy", "network", "namespace", "claim", "token_file", "token_secret", "gpus",
)  # fmt: skip
"""Options that a `Place` has under the same name."""
NO_NOTIFY = Notify()
USUAL_POOLS = PoolOptions()


def setup(
    *,
    pools: PoolOptions = USUAL_POOLS,
    as_installed: Flag = False,
    notify: Notify = NO_NOTIFY,
    only_notices: Flag = False,
    dry_run: Flag = False,
) -> None:
    """Create or update work pools, automations and deployments on the configured Prefect API.

    Args:
        pools: Options of pools.
        as_installed: Use for each pool the options that its last set-up recorded.
        notify: Options of notices.
        only_notices: Leave pools and deployments alone: only automations and where notices go.
        dry_run: Print what would be done.
    """
    url = use_api()
    from flows.installation import server_setup

    if as_installed and pools != USUAL_POOLS:
        raise ConfigError("--as-installed: takes no other options of pools", remedy="Leave one of them out.")
    place = None if as_installed or only_notices else pools.place(url)
    _print(server_setup.setup(place, dry_run, notify.notices(), only_notices=only_notices))


def _print(steps: Iterable["Step"]) -> None:
    for step in steps:
        console.print(f"{step.action:<20} {step.what}")


def up(*, port: int = 4200, workdir: Path | None = None, auth: bool | None = None) -> None:
    """Start a complete installation on this machine: server, pools, workers, deployments.

    With --auth a key is generated and kept in CORAL_HOME/api-key, readable for you alone; commands and workers of
    this installation use it by themselves, and the Prefect UI asks for it.

    Args:
        port: Port of the local Prefect server.
        workdir: Where evolutions and lanes start; this folder by default.
        auth: Whether the server asks for a key from now on; by default as last time.
    """
    from coral_core.lanes.allowed_paths import Roots  # late: it imports all sources of problems
    from flows.prefect_api.local_server import coral_home, join, refuse_beside_configured

    place = (workdir or Path.cwd()).absolute()
    if not place.is_dir():
        raise ConfigError(
            f"--workdir {workdir}: no such directory", remedy="Give the one where evolutions and lanes start."
        )
    refuse_beside_configured(port)
    roots = Roots.of_environment(here=place)
    started = time.perf_counter()
    if auth is not None:
        _want_key(auth)
    url = join(port)
    from flows.installation.local_stack import start_workers
    from flows.installation.server_setup import setup as run

    console.print(f"server       {ui_url(url)}")
    console.print(_about_key(key_file(coral_home())))
    console.print(
        f"stores       below {', '.join(roots.store) or 'no folder'}; code run from {', '.join(roots.code) or 'nowhere'}"
    )
    for step in run(Place(workdir=str(place)), resume=True):
        console.print(f"{step.action:<12} {step.what}")
    for worker in start_workers(url, place):
        console.print(f"{'worker':<12} {worker['pool']}, process {worker['pid']}, log {worker['log']}")
    console.print(
        f"up after {time.perf_counter() - started:.0f} s. Run: coral evolve quickstart --executor work-pools; end with: coral down"
    )


def _want_key(wanted: bool) -> None:
    """Switch the local server's key on or off; it is read when the server starts. Raises `ConfigError`, `KeyFileError`."""
    from flows.prefect_api.local_server import fingerprint, living_key, make_key, read_key, remove_key, usable_home

    home = usable_home()
    running, kept = living_key(), fingerprint(read_key(home))
    if running is not None and (bool(running) is not wanted or running != kept):
        option = "--auth" if wanted else "--no-auth"
        what = "with another key" if running and wanted else "with a key" if running else "without a key"
        raise ConfigError(
            f"{option}: the running server was started {what}", remedy=f"Run coral down, then coral up {option}."
        )
    if wanted:
        make_key(home)
    else:
        remove_key(home)


def _about_key(file: Path) -> str:
    if file.exists():
        return f"key          {file} (its content is what the Prefect UI asks for)"
    return "key          none: every user and program of this machine can use the server, and so run code as you (coral up --auth)"


def down() -> None:
    """End what `coral up` started: evolutions on its pools, lanes, workers, server. Finished work stays."""
    from flows.installation.local_stack import end_workers, read_state
    from flows.prefect_api.local_server import is_used, leave

    state = read_state()
    if not state:
        console.print(leave() or "nothing is up")
        return
    from flows.installation.drain import CANCEL_SECONDS, cancel_everything

    ended = cancel_everything(state["url"], leave_local=is_used())
    if ended.problem:
        console.print(f"nothing could be cancelled, and what runs is ended: {ended.problem}")
    if ended.on_pools:
        console.print(f"cancelled {ended.on_pools} flow runs")
    for name in ended.evolutions:
        how = (
            f"did not end within {CANCEL_SECONDS:.0f} s; it is put down as cancelled"
            if name in ended.hanging
            else "was told to end"
        )
        console.print(f"evolution {name} {how}. Go on with: coral up, coral resume RUN")
    for what in end_workers():
        console.print(f"ended {what}")
    how = leave(LEAVE_SECONDS if ended.evolutions else 0.0)
    console.print(f"{how or 'the server had ended'}. Finished work is in the store.")


def drain(pool: str, /, *, minutes: float = 60, undo: Flag = False) -> None:
    """Pause a pool, wait for its lanes to finish their jobs, then stop its local worker.

    Args:
        pool: Name of the work pool.
        minutes: How long to wait for lanes to finish what they do.
        undo: Take work again; a worker of coral up is started again.
    """
    url = use_api()
    from flows.installation.drain import drain as run
    from flows.installation.drain import undo_drain
    from flows.installation.local_stack import end_workers, read_state, start_workers

    if undo:
        undo_drain(url, pool)
        console.print(f"pool {pool} takes work again")
        if read_state().get("url") == url:
            start_workers(url)
        return
    for line in run(url, pool, minutes * 60):
        console.print(line)
    if read_state().get("url") == url:  # workers of coral up may serve another API
        for what in end_workers({pool}):
            console.print(f"ended {what}")
    console.print(f"pool {pool} is paused and idle. Go on with: coral drain {pool} --undo")
