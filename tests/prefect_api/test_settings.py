"""Which API is configured: the same as Prefect says, whatever the source, and without Prefect where that can be."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coral_core.errors import ConfigError
from flows.prefect_api.client import RestClient
from flows.prefect_api.local_server import refuse_beside_configured
from flows.prefect_api.settings import (
    NAMES,
    ApiSettings,
    api_settings,
    configured_api,
    configured_names,
    without_secrets,
)
from tests import warm_commands

SOURCES = ("environment", "dotenv", "prefect", "pyproject", "profile")
VALUES: dict[str, list[str]] = {
    "url": ["http://one/api", "http://two:4200/api", ""],
    "key": ["pnu_1", "pnu_2", ""],
    "auth_string": ["me:one", "you:two:three"],
    "custom_headers": ['{"X-One": "1"}', "{}", '{"Authorization": "Bearer 2", "b": "3"}'],
    "ssl_cert_file": ["/one.pem", ""],
    "tls_insecure_skip_verify": ["true", "False", "1", "off"],
}
CHOICE = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in VALUES.items()}).filter(
    bool
)
SETTINGS = st.dictionaries(st.sampled_from(SOURCES), CHOICE, max_size=4)


@contextmanager
def place(folder: Path, sources: dict[str, dict[str, str]], lower: bool = False) -> Iterator[None]:
    """A folder, a home and an environment with these settings of Prefect and no others."""
    (folder / "home").mkdir(parents=True)
    before, here = dict(os.environ), Path.cwd()
    for name in [name for name in os.environ if name.upper().startswith("PREFECT_")]:
        del os.environ[name]
    os.environ["PREFECT_HOME"] = str(folder / "home")
    for source, values in sources.items():
        _put(folder, source, values, lower)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)


def _put(folder: Path, source: str, values: dict[str, str], lower: bool) -> None:
    names = {(NAMES[name].lower() if lower else NAMES[name]): value for name, value in values.items()}
    api = {name: value for name, value in values.items() if name != "custom_headers"}
    if source == "environment":
        os.environ.update(names)
    elif source == "dotenv":
        (folder / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in names.items()))
    elif source == "profile":
        lines = [f"{NAMES[name]} = {json.dumps(value)}\n" for name, value in values.items()]
        text = (
            'active = "mine"\n[profiles.mine]\n'
            + "".join(lines)
            + '[profiles.other]\nPREFECT_API_URL = "http://other/api"\n'
        )
        (folder / "home" / "profiles.toml").write_text(text)
    else:
        top = "" if source == "prefect" else "tool.prefect."
        text = f"[{top}api]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in api.items())
        if "custom_headers" in values:
            text += f"[{top}client]\ncustom_headers = {json.dumps(values['custom_headers'])}\n"
        (folder / ("prefect.toml" if source == "prefect" else "pyproject.toml")).write_text(text)


def by_prefect() -> ApiSettings:
    """What Prefect's own client would use."""
    from prefect.settings import Settings

    found = Settings()
    return ApiSettings(
        url=found.api.url,
        key=found.api.key.get_secret_value() if found.api.key is not None else None,
        auth_string=found.api.auth_string.get_secret_value() if found.api.auth_string is not None else None,
        custom_headers=found.client.custom_headers,
        ssl_cert_file=found.api.ssl_cert_file,
        tls_insecure_skip_verify=found.api.tls_insecure_skip_verify,
    )


@given(SETTINGS, st.booleans())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_is_what_prefect_says(tmp_path: Path, sources: dict[str, dict[str, str]], lower: bool) -> None:
    with place(tmp_path / uuid4().hex, sources, lower):
        assert api_settings() == by_prefect()
        assert {NAMES[name] for values in sources.values() for name in values} <= configured_names()


SWITCHES = {
    "PREFECT_API": '{"url": "http://json/api"}',
    "PREFECT_CLIENT": '{"custom_headers": {"X-Json": "1"}}',
    "PREFECT_PROFILE": "other",
    "PREFECT_PROFILES_PATH": "../elsewhere.toml",
}
"""Variables that change where settings are read from, or hold several."""


@pytest.mark.slow(reason="60 places of settings; make test has 30 others")
@given(SETTINGS, st.sets(st.sampled_from(sorted(SWITCHES)), min_size=1))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_other_profiles_and_unusual_forms(
    tmp_path: Path, sources: dict[str, dict[str, str]], switches: set[str]
) -> None:
    (tmp_path / "elsewhere.toml").write_text(
        'active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://elsewhere/api"\n[profiles.other]\nPREFECT_API_KEY = "pnu_3"\n'
    )
    with place(tmp_path / uuid4().hex, sources):
        os.environ.update({name: SWITCHES[name] for name in switches})
        assert api_settings() == by_prefect()


@pytest.mark.parametrize("file", [".env", "prefect.toml", "pyproject.toml"])
def test_files_may_say_where_profiles_are(tmp_path: Path, file: str) -> None:
    (tmp_path / "team.toml").write_text('active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://team/api"\n')
    lines = {
        ".env": "PREFECT_PROFILES_PATH={}",
        "prefect.toml": "profiles_path = '{}'",
        "pyproject.toml": "[tool.prefect]\nprofiles_path = '{}'",
    }
    with place(tmp_path / "x", {"profile": {"url": "http://mine/api"}}):
        Path(file).write_text(lines[file].format(tmp_path / "team.toml"))
        assert api_settings() == by_prefect()
        assert api_settings().url == "http://team/api"


@pytest.mark.parametrize("file", ["prefect.toml", "pyproject.toml", "home/profiles.toml", ".env"])
def test_files_about_nothing_and_broken_ones(tmp_path: Path, file: str) -> None:
    with place(tmp_path / "fine", {}):
        Path(file).write_text('[tool.other]\nx = "1"\n' if file.endswith(".toml") else "OTHER=1\n")
        assert api_settings() == by_prefect()
        assert configured_api() is None
    with place(tmp_path / "broken", {}):
        Path(file).write_text("[api\nprefect")
        try:
            wanted = by_prefect()
        except Exception:
            with pytest.raises(ConfigError, match="Prefect cannot read its settings"):
                api_settings()
        else:
            assert api_settings() == wanted


COLD = """
import json, sys
from flows.prefect_api.settings import api_settings
found, asked = api_settings(), "prefect" in sys.modules
from prefect.settings import Settings
assert (found.url, found.ssl_cert_file) == (Settings().api.url, Settings().api.ssl_cert_file)
print(json.dumps([found.url, found.ssl_cert_file, asked]))
"""


@pytest.mark.parametrize("source", SOURCES)
def test_a_command_in_a_fresh_process(tmp_path: Path, source: str) -> None:
    """Prefect is imported only where a file of the folder speaks of it."""
    with place(tmp_path / "x", {source: {"url": "http://team/api"}}):
        environment = os.environ | {"SSL_CERT_FILE": "/system.pem"}  # Prefect reads it at its import
        done = subprocess.run([sys.executable, "-c", COLD], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["http://team/api", "/system.pem", source not in ("environment", "profile")]


@pytest.mark.parametrize(
    "source",
    [
        "prefect",
        *(
            pytest.param(name, marks=pytest.mark.slow(reason="two commands; make test has another file"))
            for name in ("dotenv", "pyproject")
        ),
    ],
)
def test_no_server_is_started_beside_the_teams(tmp_path: Path, source: str) -> None:
    """`coral evolve` uses it (here: says that it does not answer), and `coral up` refuses."""
    home = tmp_path / "coral-home"
    root = Path(__file__).parents[2]
    with place(tmp_path / "x", {source: {"url": "http://127.0.0.1:9/api"}}):
        environment = {**os.environ, "CORAL_HOME": str(home)}
        for command, said in (
            (
                ["evolve", str(root / "configs" / "quickstart.yaml"), "--set", "base_model.name=rehearsal"],
                "cannot be reached",
            ),
            (["up", "--port", "0"], "Prefect's settings name the API http://127.0.0.1:9/api"),
            (["status"], "http://127.0.0.1:9/api cannot be reached"),
        )[: 3 if source == "prefect" else 2]:
            done = warm_commands.run(command, environment=environment)
            assert done.returncode != 0 and said in done.stderr + done.stdout, done.stderr + done.stdout
    assert not (home / "server.json").exists() and not (home / "prefect").exists()


def test_the_server_that_up_starts_may_be_the_configured_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORAL_HOME", str(tmp_path / "coral-home"))
    with place(tmp_path / "x", {"environment": {"url": "http://127.0.0.1:4321/api"}}):
        refuse_beside_configured(4321)
        with pytest.raises(ConfigError, match="coral setup"):
            refuse_beside_configured(4322)


@pytest.mark.parametrize(
    ("values", "header"),
    [
        ({"key": "k"}, "Bearer k"),
        ({"key": "k", "auth_string": "a:b"}, "Basic YTpi"),
        ({"key": "k", "custom_headers": '{"Authorization": "Bearer own", "User-Agent": "no"}'}, "Bearer own"),
    ],
)
@pytest.mark.parametrize("source", SOURCES)
def test_requests_carry_what_prefects_client_sends(
    tmp_path: Path, values: dict[str, str], header: str, source: str
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.context import refresh_global_settings_context

    with place(tmp_path / "x", {source: values | {"url": "http://127.0.0.1:9/api"}}):
        with RestClient("http://127.0.0.1:9/api") as api:
            plain: Any = api._http.headers
        refresh_global_settings_context()
        try:
            assert get_client(sync_client=True)._client.headers["Authorization"] == plain["Authorization"] == header
        finally:
            os.environ.pop("PREFECT_API_URL", None)
    refresh_global_settings_context()


# -- secrets in the address ----------------------------------------------------------------

SECRET = "hunter2-secret"
ADDRESSES = (
    f"http://me:{SECRET}@127.0.0.1:1/api",
    f"https://{SECRET}@127.0.0.1:1/api",
    f"http://me:a/b@{SECRET}@127.0.0.1:1/api",
    f"http://me:{SECRET}/x@127.0.0.1:1/api",
    f"me:{SECRET}@127.0.0.1:1/api",
    f"http://127.0.0.1:1/api?key={SECRET}",
    f"http://127.0.0.1:1/api#{SECRET}",
)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("source", ["environment", "profile", "dotenv"])
def test_a_secret_in_the_address_is_refused_and_not_repeated(tmp_path: Path, address: str, source: str) -> None:
    with place(tmp_path / "place", {source: {"url": address}}), pytest.raises(ConfigError) as raised:
        api_settings()
    text = str(raised.value)
    assert SECRET not in text and "127.0.0.1:1" in text
    assert text.startswith("PREFECT_API_URL (") and "PREFECT_API_AUTH_STRING" in text.splitlines()[0]


@pytest.mark.parametrize("address", ["http://one/api", "https://api.prefect.cloud/api/accounts/1/workspaces/2", ""])
def test_an_address_without_one_is_shown_as_it_is(address: str) -> None:
    assert without_secrets(address) == address


@pytest.mark.parametrize(
    "command",
    [
        ["health", "--json"],
        ["status", "--json"],
        ["doctor", "--json"],
        ["setup"],
        ["up"],
        ["drain", "coral-a100"],
        ["evolve", str(Path(__file__).parents[2] / "configs/quickstart.yaml")],
    ],
)
def test_no_command_prints_a_secret_of_the_address(tmp_path: Path, command: list[str]) -> None:
    environment = os.environ | {"PREFECT_API_URL": ADDRESSES[0], "CORAL_HOME": str(tmp_path / "home")}
    (tmp_path / "runs" / "store").mkdir(parents=True)
    done = warm_commands.run(command, cwd=tmp_path, environment=environment)
    assert SECRET not in done.stdout + done.stderr
    assert done.returncode in (1, 2) and "PREFECT_API_URL" in done.stdout + done.stderr
