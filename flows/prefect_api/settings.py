"""Settings of the configured Prefect API, the same as Prefect's own client would use.

Prefect reads environment variables, `.env`, `prefect.toml` and `pyproject.toml` ([tool.prefect]) of the working
directory, and the active profile, in this order. The plain case, strings in the environment or the profile, is read here,
because ``import prefect.settings`` takes about a second and the whole of `coral status` half a second. All other cases
are left to Prefect, so that its rules are not implemented twice.
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
"""Field of `ApiSettings` -> name of Prefect's setting."""
STARTED_BY_WORKER = "PREFECT__FLOW_RUN_ID"
"""Workers set it in the processes and containers that they start."""
QUIET_CONSOLE = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # prints undelivered events in full
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "WARNING",  # else a line per task
}
"""Settings that keep Prefect's log lines off a terminal with a live board; the log in the UI keeps them."""
_LEFT_TO_PREFECT = {NAMES["custom_headers"], NAMES["tls_insecure_skip_verify"], "PREFECT_API", "PREFECT_CLIENT"}
"""Settings that Prefect has to parse: values that are no plain strings, and JSON of several settings."""


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
    """URL of the configured API; None where none is configured. Raises `ConfigError`."""
    return api_settings().url or None


def configured_names() -> set[str]:
    """Names of all settings of Prefect that are set, in whatever source. Raises `ConfigError`."""
    plain = _plain_settings()
    return set(plain) if plain is not None else set(_prefect_settings().to_environment_variables(exclude_unset=True))


def without_secrets(url: str) -> str:
    """`url` without user name, password, query and fragment, so that it may be shown and recorded.

    Everything before an ``@`` is removed, in the path too, since a password may contain a slash.

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
    """Address of the UI of an API: PREFECT_UI_URL, for example behind a proxy, else `api_url` without ``/api``."""
    return os.environ.get("PREFECT_UI_URL") or api_url.removesuffix("/api")


def export(values: Mapping[str, str]) -> None:
    """Set environment variables for this process and its children, and refresh Prefect's settings if it is imported."""
    os.environ.update(values)
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def export_connection(url: str) -> None:
    """Use the API at `url` from now on, in this process and its children, also those with another working directory.

    Where `url` is the configured API, its credentials are exported too.
    """
    found, values = api_settings(), {NAMES["url"]: url}
    if found.url == url:
        given = found.model_dump(exclude={"url"}, exclude_defaults=True)
        values |= {NAMES[name]: _as_variable(value) for name, value in given.items() if value}
    export(values)


def export_defaults(defaults: Mapping[str, str]) -> None:
    """`export` those of `defaults` that are set neither in the environment nor in a file or profile."""
    configured = configured_names() | os.environ.keys()
    export({name: value for name, value in defaults.items() if name not in configured})


def _as_variable(value: str | bool | dict[str, str]) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# -- environment and profile, without Prefect ----------------------------------------------


def _plain_settings() -> dict[str, str] | None:
    """Settings of the environment and the active profile; None where only Prefect can read them."""
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
    """Prefect's variables of the environment, with names in upper case: Prefect ignores their case."""
    return {name.upper(): value for name, value in os.environ.items() if name.upper().startswith("PREFECT_")}


def _profile() -> dict[str, Any] | None:
    """The active profile, from the file that Prefect reads; None where that file is malformed."""
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
    """Whether `.env`, `prefect.toml` or `pyproject.toml` of the working directory may hold settings of Prefect."""
    if Path("prefect.toml").exists():
        return True
    try:
        if Path(".env").is_file() and b"prefect" in Path(".env").read_bytes().lower():
            return True
        return "prefect" in tomllib.loads(Path("pyproject.toml").read_text("utf-8")).get("tool", {})
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, AttributeError):  # Prefect reports better what is wrong with the file
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
    except Exception as error:  # of any kind, since users write these files
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"Prefect cannot read its settings in {Path.cwd()}: {type(error).__name__}: {first}",
            remedy="Look at PREFECT_* in the environment, and at .env, prefect.toml and pyproject.toml here.",
        ) from None
