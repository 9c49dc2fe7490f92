"""What a failed request to the Prefect API means to the person at the terminal. Imports no Prefect: see `prefect_setting`."""

import os
from pathlib import Path

import httpx

from coral_core.errors import CoralError


class ApiError(CoralError):
    """The Prefect API cannot be used."""

    exit_code = 6


def prefect_setting(name: str) -> str | None:
    """A setting of Prefect's client from the environment or the active profile, read without importing Prefect.

    Importing it takes seconds on a busy machine, which a command that only looks should not cost.
    """
    if value := os.environ.get(name):
        return value
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    try:
        import tomllib

        profiles = tomllib.loads((home / "profiles.toml").read_text("utf-8"))
        active = os.environ.get("PREFECT_PROFILE") or profiles.get("active", "")
        value = profiles.get("profiles", {}).get(active, {}).get(name)
        return str(value) if value else None
    except (OSError, ValueError):
        return None


def api_error(error: Exception, url: str | None = None) -> ApiError | None:
    """The error in words that name the fix; None when `error` is not about reaching the API."""
    url = url or prefect_setting("PREFECT_API_URL")
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        if status in (401, 403):
            return ApiError(f"{url} refuses the key ({status}). Set PREFECT_API_KEY, or PREFECT_API_AUTH_STRING.")
        return ApiError(
            f"{url} answers {status}: {_detail(error)}. Is it a Prefect API (it ends in /api) of the version that is installed here?"
        )
    if isinstance(error, httpx.HTTPError) or (isinstance(error, RuntimeError) and "reach" in str(error)):
        return ApiError(
            f"{url} cannot be reached ({type(error).__name__}). Start it with coral up, or set PREFECT_API_URL."
        )
    return None


def _detail(error: httpx.HTTPStatusError) -> str:
    """What the server said, without what we sent it."""
    text = " ".join(error.response.text.split())
    return text[:200] or error.response.reason_phrase
