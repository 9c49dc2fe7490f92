"""Which Prefect API is configured, and how to authenticate there: what Prefect's own client would use.

Prefect reads environment variables, `.env`, `prefect.toml` and `pyproject.toml` ([tool.prefect]) of the working
directory, and the active profile, in this order. The plain case, a few strings in the environment or the profile, is
read here, because ``import prefect.settings`` takes about a second and `coral status` takes half of one. Everything
else is left to Prefect, so that there is no second implementation of its rules.
"""

import json
import os
import re
import sys
import tomllib
import warnings
from collections.abc import Mapping
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
STARTED_BY_WORKER = "PREFECT__FLOW_RUN_ID"
"""Workers set it in the processes and containers that they start."""
QUIET_CONSOLE = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # events that a server missed, whole
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "WARNING",  # a line per task says nothing
}
"""Keeps Prefect's log lines off a terminal that shows a board; they stay in the run's log in the UI."""
_LEFT_TO_PREFECT = {NAMES["custom_headers"], NAMES["tls_insecure_skip_verify"], "PREFECT_API", "PREFECT_CLIENT"}
"""Settings that are no plain strings: values to parse, and JSON of several settings at once."""


class ApiSettings(Frozen):
    """The connection to the configured API. Secrets are not shown in its repr."""

    url: str | None = Field(None, description="None, or empty: no API is configured.")
    key: str | None = Field(None, repr=False)
    auth_string: str | None = Field(None, repr=False, description="USER:PASSWORD for basic authentication.")
    custom_headers: dict[str, str] = Field({}, repr=False)
    ssl_cert_file: str | None = None
    tls_insecure_skip_verify: bool = False


def api_settings() -> ApiSettings:
    """The settings of the API as they are configured now.

    Raises:
        ConfigError: Prefect cannot read its settings, or the API's address holds a secret.
    """
    plain = _plain_settings()
    found = _from_plain(plain) if plain is not None else _from_prefect()
    if found.url and (clean := without_secrets(found.url)) != found.url:
        source = "the environment" if found.url in _environment().values() else "a Prefect profile or settings file"
        raise ConfigError(
            f"PREFECT_API_URL ({source}): {clean}: holds a user name, a password or a query, and addresses are shown and recorded",
            remedy="Set it without them, and PREFECT_API_AUTH_STRING to USER:PASSWORD (Prefect Cloud: PREFECT_API_KEY).",
        )
    return found


def configured_api() -> str | None:
    """The URL of the configured API, if there is one. Raises `ConfigError`."""
    return api_settings().url or None


def configured_names() -> set[str]:
    """Names of all settings of Prefect that are set, in whatever source. Raises `ConfigError`."""
    plain = _plain_settings()
    return set(plain) if plain is not None else set(_prefect_settings().to_environment_variables(exclude_unset=True))


def without_secrets(url: str) -> str:
    """`url` as it may be shown and recorded: without user name, password, query and fragment.

    Whatever stands before an ``@`` is removed, in the path too: a password may hold a slash.

    Example:
        >>> without_secrets("https://me:secret@host/api?key=1")
        'https://***@host/api?***'
    """
    scheme, sign, rest = url.partition("://")
    if not sign:
        scheme, rest = "", url
    _, at, rest = rest.rpartition("@")
    bare = re.split(r"[?#]", rest, maxsplit=1)[0]
    return f"{scheme}{sign}{'***@' if at else ''}{bare}{'?***' if bare != rest else ''}"


def ui_url(api_url: str) -> str:
    """Where people open the UI of the API at `api_url`: behind a proxy or outside a container it has another address."""
    return os.environ.get("PREFECT_UI_URL") or api_url.removesuffix("/api")


def export(values: Mapping[str, str]) -> None:
    """Set environment variables for this process and its children; Prefect reads them again if it is imported."""
    os.environ.update(values)
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def export_connection(url: str) -> None:
    """Use the API at `url` from now on, in this process and in its children, which may work in another folder.

    Where `url` is the configured API, the settings to authenticate there are exported with it.
    """
    found, values = api_settings(), {NAMES["url"]: url}
    if found.url == url:
        given = found.model_dump(exclude={"url"}, exclude_defaults=True)
        values |= {NAMES[name]: _as_variable(value) for name, value in given.items() if value}
    export(values)


def export_defaults(defaults: Mapping[str, str]) -> None:
    """`export` those of `defaults` that are set nowhere, neither in the environment nor in a file or profile."""
    configured = configured_names() | os.environ.keys()
    export({name: value for name, value in defaults.items() if name not in configured})


def _as_variable(value: str | bool | dict[str, str]) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# -- environment and profile, without Prefect ----------------------------------------------


def _plain_settings() -> dict[str, str] | None:
    """Settings of the environment and the active profile; None where Prefect has to be asked."""
    environment = _environment()
    if _a_file_names_prefect():
        return None
    profile = _profile()
    if profile is None or not all(isinstance(profile.get(name, ""), str) for name in NAMES.values()):
        return None
    found = profile | environment
    return found if _LEFT_TO_PREFECT.isdisjoint(found) else None


def _from_plain(found: Mapping[str, str]) -> ApiSettings:
    values: dict[str, Any] = {"ssl_cert_file": os.environ.get("SSL_CERT_FILE")}
    return ApiSettings(**values | {field: found[name] for field, name in NAMES.items() if name in found})


def _environment() -> dict[str, str]:
    """Settings of Prefect in the environment; case does not matter there."""
    return {name.upper(): value for name, value in os.environ.items() if name.upper().startswith("PREFECT_")}


def _profile() -> dict[str, Any] | None:
    """The active profile, looked for where Prefect looks; None where the file is not as it should be."""
    if given := os.environ.get("PREFECT_PROFILES_PATH"):
        path = Path(given)
    else:
        path = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect") / "profiles.toml"
    try:
        found = tomllib.loads(path.read_text("utf-8"))
        active = os.environ.get("PREFECT_PROFILE") or found.get("active")
        return dict(found.get("profiles", {}).get(active, {}))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _a_file_names_prefect() -> bool:
    """May `.env`, `prefect.toml` or `pyproject.toml` of the working directory hold settings of Prefect?"""
    if Path("prefect.toml").exists():
        return True
    try:
        if Path(".env").is_file() and b"prefect" in Path(".env").read_bytes().lower():
            return True
        return "prefect" in tomllib.loads(Path("pyproject.toml").read_text("utf-8")).get("tool", {})
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, AttributeError):  # Prefect says better what is wrong with the file
        return True


# -- Prefect itself ------------------------------------------------------------------------


def _from_prefect() -> ApiSettings:
    found = _prefect_settings()
    key, pair = found.api.key, found.api.auth_string
    return ApiSettings(
        url=found.api.url,
        key=key.get_secret_value() if key is not None else None,
        auth_string=pair.get_secret_value() if pair is not None else None,
        custom_headers={str(name): str(value) for name, value in found.client.custom_headers.items()},
        ssl_cert_file=found.api.ssl_cert_file,
        tls_insecure_skip_verify=found.api.tls_insecure_skip_verify,
    )


def _prefect_settings() -> Any:
    """Prefect's settings, read now. Raises `ConfigError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from prefect.settings import Settings

            return Settings()
    except Exception as error:  # of any kind: the files are not ours
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"Prefect cannot read its settings in {Path.cwd()}: {type(error).__name__}: {first}",
            remedy="Look at PREFECT_* in the environment, and at .env, prefect.toml and pyproject.toml here.",
        ) from None
