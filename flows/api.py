"""What a failed request to the Prefect API means to the person at the terminal."""

import httpx
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from coral_core.errors import CoralError


class ApiError(CoralError):
    """The Prefect API cannot be used."""

    exit_code = 6


def api_error(error: Exception) -> ApiError | None:
    """The error in words that name the fix; None when `error` is not about reaching the API."""
    url = PREFECT_API_URL.value()
    if isinstance(error, PrefectHTTPStatusError):
        status = error.response.status_code
        if status in (401, 403):
            return ApiError(f"{url} refuses the key ({status}). Set PREFECT_API_KEY, or PREFECT_API_AUTH_STRING.")
        return ApiError(
            f"{url} answers {status}: {_detail(error)}. Is it a Prefect API of the version that is installed here?"
        )
    if isinstance(error, httpx.HTTPError) or (isinstance(error, RuntimeError) and "reach" in str(error)):
        return ApiError(
            f"{url} cannot be reached ({type(error).__name__}). Start it with coral up, or set PREFECT_API_URL."
        )
    return None


def _detail(error: PrefectHTTPStatusError) -> str:
    """What the server said, without what we sent it."""
    text = error.response.text.strip()
    return text[:200] or error.response.reason_phrase
