"""What a failed request to the Prefect API means to the person at the terminal. Imports no Prefect: see `flows.prefect_api.api_settings`."""

import httpx

from coral_core.errors import ConfigError, CoralError
from flows.prefect_api.api_settings import api_settings


class ApiError(CoralError):
    """The Prefect API cannot be used."""

    exit_code = 6


def api_error(error: Exception, url: str | None = None) -> ApiError | None:
    """The error in words that name the fix; None when `error` is not about reaching the API."""
    url = url or _configured()
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        if status in (401, 403):
            from flows.prefect_api.credentials import refused  # it needs what is defined here

            return refused(str(url), status)
        return ApiError(
            f"{url} answers {status}: {_detail(error)}. Is it a Prefect API (it ends in /api) of the version that is installed here?"
        )
    if isinstance(error, httpx.HTTPError) or (isinstance(error, RuntimeError) and "reach" in str(error)):
        return ApiError(
            f"{url} cannot be reached ({type(error).__name__}). Start it with coral up, or set PREFECT_API_URL."
        )
    return None


def _configured() -> str:
    try:
        return api_settings().url or "the Prefect API"
    except ConfigError:
        return "the Prefect API"


def _detail(error: httpx.HTTPStatusError) -> str:
    """What the server said, without what we sent it."""
    text = " ".join(error.response.text.split())
    return text[:200] or error.response.reason_phrase
