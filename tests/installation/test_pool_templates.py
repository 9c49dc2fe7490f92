"""Right after `coral setup`, whatever its options, `coral health` finds the templates as they should be; and a change is seen."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect.flows import load_flow_from_entrypoint

from coral_core.errors import ConfigError
from flows.cli import build
from flows.installation import server_setup as setting_up
from flows.installation.pool_status import PoolStatus
from flows.installation.pool_templates import DEPLOYMENTS, FILES, POOLS, RECORD, Drift, Place, drift, template
from flows.monitoring.finding import Check
from flows.monitoring.server_checks import templates

APP = build()
URL = "https://prefect.example/api"
NAME = st.from_regex(r"[a-z][a-z0-9.-]{0,12}", fullmatch=True)
LABEL = st.builds(lambda key, values: f"{key}={','.join(values)}", NAME, st.lists(NAME, min_size=1, max_size=3))
PATH = st.from_regex(r"/[a-z ][a-z0-9/ .-]{0,20}", fullmatch=True)
OPTIONS = st.fixed_dictionaries(
    {"--type": st.sampled_from(["process", "docker", "kubernetes"])},
    optional={
        "--workdir": PATH,
        "--store": PATH,
        "--api-url": st.sampled_from(["https://other/api", "http://10.0.0.1:4200/api"]),
        "--control-image": NAME,
        "--lane-image": st.builds("reg.example/{}@sha256:{}".format, NAME, NAME),
        "--pull-policy": st.sampled_from(["IfNotPresent", "Always", "Never"]),
        "--network": st.sampled_from(["bridge", "host", "coral_default"]),
        "--token-file": PATH,
        "--namespace": NAME,
        "--claim": NAME,
        "--training-node-label": LABEL,
        "--evaluation-node-label": LABEL,
        "--token-secret": NAME,
        "--code-root": st.sampled_from(["/srv/code", "/a b"]),
        "--allow-missing-layer": st.sampled_from(["landlock", "seccomp"]),
    },
)


def place_of(arguments: list[str]) -> Place:
    """What `coral setup` would render templates with."""
    found: list[Place] = []

    def run(place: Place, *_: Any, **__: Any) -> list[Any]:
        found.append(place)
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setting_up, "setup", run)
        patch.setenv("PREFECT_API_URL", URL)
        APP(["setup", *arguments], result_action="return_value", exit_on_error=False)
    return found[0]


def statuses(place: Place) -> tuple[PoolStatus, ...]:
    return tuple(
        PoolStatus(name=spec.name, type=place.infrastructure, base_job_template=template(spec, place)) for spec in POOLS
    )


class Server:
    """The pools of a server, as a client of Prefect reads and updates them."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.templates = {spec.name: template(spec, place) for spec in POOLS}
        self.updated: list[str] = []

    def read_work_pool(self, name: str) -> SimpleNamespace:
        (spec,) = (spec for spec in POOLS if spec.name == name)
        return SimpleNamespace(
            type=self.place.infrastructure,
            base_job_template=self.templates[name],
            description=spec.description,
            is_paused=False,
        )

    def update_work_pool(self, name: str, update: Any) -> None:
        self.updated.append(name)
        self.templates[name] = update.base_job_template

    def set_up_as_installed(self) -> list[str]:
        """`coral setup --as-installed`: what was done with each pool."""
        client: Any = self
        return [step.action for spec in POOLS for step in setting_up._pool(client, spec, None, False, False)]


@given(OPTIONS, st.booleans())
@settings(deadline=None, max_examples=25)
def test_health_is_green_right_after_setup_with_any_options(given: dict[str, str], gpus: bool) -> None:
    arguments = [part for pair in given.items() for part in pair] + ([] if gpus else ["--no-gpus"])
    try:
        place = place_of(arguments)
    except ConfigError:
        return  # options that do not go together are refused
    check = templates(statuses(place))
    assert check.state == "ok", check
    server = Server(place)
    assert server.set_up_as_installed() == ["is as it should be"] * len(POOLS) and not server.updated


@pytest.mark.parametrize("infrastructure", ["process", "docker", "kubernetes"])
@pytest.mark.parametrize("spec", POOLS, ids=lambda spec: spec.name)
def test_a_change_by_hand_is_told_apart_from_another_version(
    infrastructure: Any, spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(infrastructure=infrastructure, workdir="/srv", token_secret="hf", lane_image="reg/lane:7")
    written = template(spec, place)
    assert drift(spec, infrastructure, written) is None
    changed = copy.deepcopy(written)
    changed["job_configuration"]["env"]["LD_PRELOAD"] = "/tmp/x.so"
    assert drift(spec, infrastructure, changed) is Drift.CHANGED
    forged = copy.deepcopy(changed)  # with a digest that fits: it is still not what this version renders
    forged[RECORD]["sha256"] = setup_digest({key: value for key, value in forged.items() if key != RECORD})
    assert drift(spec, infrastructure, forged) is Drift.OTHER_VERSION
    del changed[RECORD]
    assert drift(spec, infrastructure, changed) is Drift.NO_RECORD
    for record in (5, {}, {"place": "x"}, None):
        assert drift(spec, infrastructure, written | {RECORD: record}) is Drift.NO_RECORD
    other = "docker" if infrastructure == "process" else "process"
    assert drift(spec, other, written) is Drift.OTHER_TYPE


def setup_digest(body: Any) -> str:
    from coral_core.digest import digest

    return digest(body)


def test_the_remedy_of_health_restores_a_changed_template_with_the_options_of_its_set_up() -> None:
    place = Place(infrastructure="kubernetes", workdir="/srv/a b", api_url="https://host/api", token_secret="hf")
    server = Server(place)
    written = copy.deepcopy(server.templates)
    server.templates["coral-a100"]["job_configuration"]["env"] = {}

    def check() -> Check:
        found = [
            PoolStatus(name=name, type="kubernetes", base_job_template=found)
            for name, found in server.templates.items()
        ]
        return templates(tuple(found))

    assert check().state == "bad" and check().found == "coral-a100 was changed after coral setup wrote it"
    assert "coral setup --as-installed --dry-run" in check().todo
    server.set_up_as_installed()
    assert server.updated == ["coral-a100"] and server.templates == written and check().state == "ok"


@pytest.mark.parametrize("record", [None, {}, {"place": "x"}])
def test_without_a_record_no_options_are_guessed(record: Any) -> None:
    server = Server(Place(workdir="/srv"))
    server.templates["coral-control"][RECORD] = record
    with pytest.raises(ConfigError, match="holds no options of coral setup that can be read"):
        server.set_up_as_installed()
    found = PoolStatus(name="coral-control", type="process", base_job_template=server.templates["coral-control"])
    assert templates((found,)).todo == "coral setup with the options of your set-up"


def test_other_options_do_not_go_with_those_of_the_last_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", URL)
    with pytest.raises(ConfigError, match="--as-installed: takes no other options of pools"):
        APP(["setup", "--as-installed", "--no-gpus"], result_action="return_value", exit_on_error=False)


def test_deployments_stand_in_the_file_that_people_edit() -> None:
    entries = yaml.safe_load((FILES / "prefect.yaml").read_text())["deployments"]
    assert {f"{each['name']}/{each['name']}": each["work_pool"]["name"] for each in entries} == DEPLOYMENTS
    for each in entries:
        assert load_flow_from_entrypoint(each["entrypoint"], use_placeholder_flow=False).name == each["name"]
