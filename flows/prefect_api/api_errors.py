"""Errors of the boundary to Prefect; `flows.prefect_api.client.api_error` makes them of failed requests."""

from coral_core.errors import CoralError


class ApiError(CoralError):
    """The Prefect API cannot be used.

    Args:
        problem: As in `CoralError`; names the API.
        remedy: As in `CoralError`.
        status: HTTP status of its answer; None where there was no answer, or the error is of another kind.
    """

    exit_code = 6

    def __init__(self, problem: str = "", *, remedy: str = "", status: int | None = None) -> None:
        super().__init__(problem, remedy=remedy)
        self.status = status


class ApiUnreachableError(ApiError):
    """Nothing answers at the API's address."""


class KeyRefusedError(ApiError):
    """The API asks for a key, and got none or a wrong one."""


class KeyFileError(ApiError):
    """The key of the local server cannot be used, or is no secret any more."""


class ServerError(ApiError):
    """The local Prefect server cannot be started or found."""
