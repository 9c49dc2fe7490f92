"""Right after `coral setup`, whatever its options, `coral health` finds the templates as they should be; and a change is seen."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral_core.errors import ConfigError
from flows.cli import build
from flows.installation import server_setup as setting_up
from flows.installation.pool_status import PoolLook
from flows.installation.pool_templates import POOLS, RECORD, Place, difference, options, template
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

    def run(place: Place, *_: Any) -> list[Any]:
        found.append(place)
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setting_up, "setup", run)
        patch.setenv("PREFECT_API_URL", URL)
        APP(["setup", *arguments], result_action="return_value", exit_on_error=False)
    return found[0]


def looks(place: Place) -> tuple[PoolLook, ...]:
    return tuple(PoolLook(name=spec.name, type=place.infrastructure, template=template(spec, place)) for spec in POOLS)


@given(OPTIONS, st.booleans())
@settings(deadline=None, max_examples=25)
def test_health_is_green_right_after_setup_with_any_options(given: dict[str, str], gpus: bool) -> None:
    arguments = [part for pair in given.items() for part in pair] + ([] if gpus else ["--no-gpus"])
    try:
        place = place_of(arguments)
    except ConfigError:
        return  # options that do not go together are refused
    check = templates(looks(place))
    assert check.state == "ok", check
    again = place_of(options(place))
    if place.infrastructure == "process":  # which has the address from its worker
        again = again.model_copy(update={"api_url": place.api_url})
    assert again == place, "the command that health prints gives the same set-up"


@pytest.mark.parametrize("infrastructure", ["process", "docker", "kubernetes"])
@pytest.mark.parametrize("spec", POOLS, ids=lambda spec: spec.name)
def test_a_change_by_hand_is_told_apart_from_another_version(
    infrastructure: Any, spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(infrastructure=infrastructure, workdir="/srv", token_secret="hf", lane_image="reg/lane:7")
    written = template(spec, place)
    assert difference(spec, infrastructure, written) == ""
    changed = copy.deepcopy(written)
    changed["job_configuration"]["env"]["LD_PRELOAD"] = "/tmp/x.so"
    assert difference(spec, infrastructure, changed) == "was changed after coral setup wrote it"
    forged = copy.deepcopy(changed)  # with a digest that fits: it is still not what this version renders
    forged[RECORD]["sha256"] = setup_digest({key: value for key, value in forged.items() if key != RECORD})
    assert difference(spec, infrastructure, forged).startswith("was written by version ")
    del changed[RECORD]
    assert difference(spec, infrastructure, changed) == "holds no record of coral setup"
    for record in (5, {}, {"place": "x"}, None):
        assert "cannot be read" in difference(spec, infrastructure, written | {RECORD: record})
    other = "docker" if infrastructure == "process" else "process"
    assert "this pool is of type" in difference(spec, other, written)


def setup_digest(body: Any) -> str:
    from coral_core.digest import digest

    return digest(body)


def test_what_to_do_is_the_command_with_its_options(tmp_path: Path) -> None:
    place = Place(
        infrastructure="kubernetes", workdir="/srv/a b", api_url="https://me:secret@host/api", token_secret="hf"
    )
    found = list(looks(place))
    changed = copy.deepcopy(found[1].template)
    changed["job_configuration"]["env"] = {}
    found[1] = found[1].model_copy(update={"template": changed})
    check = templates(tuple(found))
    assert check.state == "bad" and check.found == "coral-a100 was changed after coral setup wrote it"
    assert "coral setup --type kubernetes --workdir '/srv/a b'" in check.todo and "--token-secret hf" in check.todo
    assert "secret@" not in check.todo and "--dry-run" in check.todo
