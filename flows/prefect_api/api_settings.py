"""Which Prefect API is configured, and how to authenticate there: what Prefect's own client would use.

Prefect reads environment variables, `.env`, `prefect.toml` and `pyproject.toml` ([tool.prefect]) of the working
directory, and the active profile, in this order. Environment and profile are read here without importing Prefect, which
costs a second that a command that only looks should not take. Where one of the three files speaks of Prefect, or a value
has an unusual form, Prefect itself is asked, so that there is no second implementation of those rules.
"""

import json
import os
import re
import sys
import tomllib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from coral_core.errors import ConfigError
from coral_core.frozen import Frozen

NAMES = {
    "url": "PREFECT_API_URL",
    "key": "PREFECT_API_KEY",
    "auth_string": "PREFECT_API_AUTH_STRING",
    "custom_headers": "PREFECT_CLIENT_CUSTOM_HEADERS",
    "ssl_cert_file": "PREFECT_API_SSL_CERT_FILE",
    "tls_insecure_skip_verify": "PREFECT_API_TLS_INSECURE_SKIP_VERIFY",
}
"""Field of `ApiSettings` -> Prefect's name of it."""
_TEST_MODES = (
    "PREFECT_TEST_MODE",
    "PREFECT_UNIT_TEST_MODE",
    "PREFECT_TESTING_UNIT_TEST_MODE",
    "PREFECT_TESTING_TEST_MODE",
)
_TRUE, _FALSE = {"1", "true", "t", "yes", "y", "on"}, {"0", "false", "f", "no", "n", "off"}


class ApiSettings(Frozen):
    """The connection to the configured API. Secrets are not shown in its repr."""

    url: str | None = Field(None, description="None, or empty: no API is configured.")
    key: str | None = Field(None, repr=False)
    auth_string: str | None = Field(None, repr=False, description="USER:PASSWORD for basic authentication.")
    custom_headers: dict[str, str] = Field({}, repr=False)
    ssl_cert_file: str | None = None
    tls_insecure_skip_verify: bool = False


class _Unusual(Exception):  # noqa: N818  no error: it is for Prefect to read
    """Prefect is to be asked."""


def api_settings() -> ApiSettings:
    """What is configured now.

    Raises:
        ConfigError: Prefect cannot read its settings, or the API's address holds a secret.
    """
    try:
        found = _read()
    except _Unusual:
        found = _ask()
    if found.url and (clean := without_secrets(found.url)) != found.url:
        source = "the environment" if found.url in _environment().values() else "a Prefect profile or settings file"
        raise ConfigError(
            f"PREFECT_API_URL ({source}): {clean}: a user name, a password or a query stands in the address, and addresses are "
            "shown and recorded. Set it without one, and PREFECT_API_AUTH_STRING to USER:PASSWORD (Prefect Cloud: PREFECT_API_KEY)."
        )
    return found


def without_secrets(url: str) -> str:
    """`url` as it may be shown and recorded: without user name, password, query and fragment.

    Whatever stands before an ``@`` goes, in the path too: a password may hold a slash.
    """
    scheme, sign, rest = url.partition("://")
    if not sign:
        scheme, rest = "", url
    _, at, rest = rest.rpartition("@")
    bare = re.split(r"[?#]", rest, maxsplit=1)[0]
    return f"{scheme}{sign}{'***@' if at else ''}{bare}{'?***' if bare != rest else ''}"


def configured_names() -> set[str]:
    """Names of the settings of Prefect that somebody has set, wherever."""
    try:
        _refuse_unusual()
        return {*_environment(), *_profile()}
    except _Unusual:
        return set(_asked().to_environment_variables(exclude_unset=True))


def export(values: Mapping[str, str]) -> None:
    """Set environment variables for this process and its children, and have Prefect read them if it is imported already."""
    os.environ.update(values)
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def export_connection(url: str) -> None:
    """Use the API at `url` from now on, in this process and in its children, which may work in another folder.

    Where `url` is the configured API, how to authenticate there is exported with it.
    """
    found, values = api_settings(), {"PREFECT_API_URL": url}
    if found.url == url:
        values |= {
            NAMES[name]: value for name in ("key", "auth_string", "ssl_cert_file") if (value := _text(found, name))
        }
        if found.custom_headers:
            values[NAMES["custom_headers"]] = json.dumps(found.custom_headers)
        if found.tls_insecure_skip_verify:
            values[NAMES["tls_insecure_skip_verify"]] = "true"
    export(values)


def _text(found: ApiSettings, name: str) -> str:
    return str(getattr(found, name) or "")


# -- environment and profile ---------------------------------------------------------------


def _read() -> ApiSettings:
    """From environment and profile alone. Raises `_Unusual`."""
    _refuse_unusual()
    environment, profile = _environment(), _profile()
    values: dict[str, Any] = {"ssl_cert_file": os.environ.get("SSL_CERT_FILE")}
    for field, name in NAMES.items():
        value = environment.get(name, profile.get(name))
        if value is not None:
            values[field] = _plain(field, value)
    return ApiSettings(**values)


def _plain(field: str, value: Any) -> Any:
    if field == "tls_insecure_skip_verify":
        text = str(value).lower()
        if text not in _TRUE | _FALSE:
            raise _Unusual
        return text in _TRUE
    if not isinstance(value, str):
        raise _Unusual
    if field != "custom_headers":
        return value
    try:
        headers = json.loads(value)
    except ValueError:
        raise _Unusual from None
    if not isinstance(headers, dict) or not all(isinstance(each, str) for each in headers.values()):
        raise _Unusual
    return headers


def _environment() -> dict[str, str]:
    """Settings of Prefect in the environment; case does not matter there."""
    return {name.upper(): value for name, value in os.environ.items() if name.upper().startswith("PREFECT_")}


def _profile() -> dict[str, Any]:
    """The active profile, looked for where Prefect looks. Raises `_Unusual` for a file that is not as it should be."""
    if given := os.environ.get("PREFECT_PROFILES_PATH"):
        path = Path(given)
    else:
        home = os.environ.get("PREFECT_HOME")
        path = (Path(home) if home else Path.home() / ".prefect") / "profiles.toml"
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise _Unusual from None
    profiles, active = found.get("profiles", {}), os.environ.get("PREFECT_PROFILE") or found.get("active")
    if not isinstance(profiles, dict) or not isinstance(active, str | None):
        raise _Unusual
    chosen = profiles.get(active, {}) if active else {}
    if not isinstance(chosen, dict):
        raise _Unusual
    return chosen


def _refuse_unusual() -> None:
    """Raises `_Unusual` where there may be settings that `_read` does not see."""
    environment = _environment()
    whole = {"PREFECT_API", "PREFECT_CLIENT"} & environment.keys()  # JSON of several settings at once
    if whole or any(environment.get(name) for name in _TEST_MODES) or any(_files_that_speak_of_prefect()):
        raise _Unusual


def _files_that_speak_of_prefect() -> Iterator[bool]:
    yield Path("prefect.toml").exists()
    try:
        yield Path(".env").is_file() and b"prefect" in Path(".env").read_bytes().lower()
        tool = tomllib.loads(Path("pyproject.toml").read_text("utf-8")).get("tool", {})
        yield not isinstance(tool, dict) or "prefect" in tool
    except FileNotFoundError:
        return
    except (OSError, ValueError):  # Prefect says better what is wrong with it
        yield True


# -- Prefect itself ------------------------------------------------------------------------


def _ask() -> ApiSettings:
    found = _asked()
    key, pair = found.api.key, found.api.auth_string
    return ApiSettings(
        url=found.api.url,
        key=key.get_secret_value() if key is not None else None,
        auth_string=pair.get_secret_value() if pair is not None else None,
        custom_headers={str(name): str(value) for name, value in found.client.custom_headers.items()},
        ssl_cert_file=found.api.ssl_cert_file,
        tls_insecure_skip_verify=found.api.tls_insecure_skip_verify,
    )


def _asked() -> Any:
    """Prefect's settings, read now. Raises `ConfigError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from prefect.settings import Settings

            return Settings()
    except Exception as error:  # of whatever kind: the files are not ours
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"Prefect cannot read its settings in {Path.cwd()}: {type(error).__name__}: {first}. Look at PREFECT_* in the "
            "environment, and at .env, prefect.toml and pyproject.toml here."
        ) from None
