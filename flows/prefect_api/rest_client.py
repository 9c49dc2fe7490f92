"""The Prefect REST API for commands that only look: no `import prefect`, which costs more than everything they ask.

Reads the settings that Prefect's own client reads (URL, key, basic auth, headers, certificates). Changes nothing on the server.
"""

import ssl
import time
import uuid
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx

from flows.prefect_api.api_errors import ApiError, api_error
from flows.prefect_api.api_settings import api_settings
from flows.prefect_api.credentials import credential_for, same_api
from flows.prefect_api.pages import LimitRefusedError, all_pages

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 20.0
_PROTECTED = {"user-agent", "prefect-csrf-token", "prefect-csrf-client"}
"""Headers that Prefect's client does not let `PREFECT_CLIENT_CUSTOM_HEADERS` set."""


def not_prefect(url: str, error: Exception) -> str:
    """What to say when an answer is JSON of another shape than Prefect's."""
    return f"{url} answers what a Prefect API does not ({type(error).__name__}: {error}). Set PREFECT_API_URL to one."


def refuse_what_is_no_api(url: str) -> None:
    """Before something is told as missing there. Raises `ApiError`."""
    with PlainApi(url) as api:
        api.find("flows/count")


class PlainApi:
    """Short requests over one kept connection. Every failure is an `ApiError` that names the fix."""

    def __init__(self, url: str, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.url = url.rstrip("/")
        self._is_api: bool | None = None
        self.ahead = 0.0
        """Seconds that the server's clock is ahead of this machine's, as of the last answer; known to one second."""
        timeout = httpx.Timeout(answer_seconds, connect=CONNECT_SECONDS)
        self._client = httpx.Client(headers=_headers(self.url), timeout=timeout, verify=_verify(), trust_env=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def close(self) -> None:
        self._client.close()

    def get(self, path: str) -> Any:
        """JSON of a resource; None when there is none."""
        return self._ask("GET", path, None)

    def find(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """JSON of a query (POST); None when what it is about is not there."""
        return self._ask("POST", path, body or {})

    def find_all(self, path: str, body: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """All rows of a query that gives a list, page by page; none when what it is about is not there."""

        def read(limit: int | None, offset: int) -> list[dict[str, Any]]:
            page = {"offset": offset} | ({"limit": limit} if limit is not None else {})
            return self._ask("POST", path, (body or {}) | page) or []

        return all_pages(read)

    def now(self) -> float:
        """Unix time by the server's clock."""
        return time.time() + self.ahead

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            answer = self._client.request(method, f"{self.url}/{path}", json=body)
            if answer.status_code == 403 and "CSRF" in answer.text:
                self._fetch_csrf_token()
                answer = self._client.request(method, f"{self.url}/{path}", json=body)
            if answer.status_code == 404:
                self._refuse_what_is_no_api()
                return None
            if answer.status_code == 422 and body is not None and "limit" in body:
                raise LimitRefusedError
            answer.raise_for_status()
            self._compare_clocks(answer)
            return answer.json()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise api_error(error, self.url) or ApiError(f"{self.url} is no URL of an API ({error}).") from None
        except ValueError:
            raise ApiError(
                f"{self.url} answers something else than JSON. Set PREFECT_API_URL to a Prefect API (it ends in /api)."
            ) from None

    def _refuse_what_is_no_api(self) -> None:
        """Where nothing is found, is it because nothing can be? Asked once."""
        if self._is_api is None:
            self._is_api = True  # for the question itself
            self._is_api = isinstance(self._ask("POST", "flows/count", {}), int)
        if not self._is_api:
            raise ApiError(
                f"{self.url} is no Prefect API: it knows no flows. Set PREFECT_API_URL to one (it ends in /api)."
            )

    def _fetch_csrf_token(self) -> None:
        """Servers with PREFECT_SERVER_CSRF_PROTECTION_ENABLED want one with every query."""
        client = str(uuid.uuid4())
        token = self._client.get(f"{self.url}/csrf-token", params={"client": client}).raise_for_status().json()["token"]
        self._client.headers.update({"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": token})

    def _compare_clocks(self, answer: httpx.Response) -> None:
        try:
            there = parsedate_to_datetime(answer.headers["date"]).timestamp() + 0.5
        except (KeyError, ValueError, TypeError):
            return
        difference = there - time.time()
        self.ahead = difference if abs(difference) > 2 else 0.0


def _headers(url: str) -> dict[str, str]:
    """What belongs to the API at `url`, and to no other: an address may come from a run's folder, which anybody may have written.

    As with Prefect's client, custom headers go before a key.
    """
    credential = credential_for(url)
    headers = {"Authorization": credential.header} if credential is not None else {}
    found = api_settings()
    if not same_api(url, found.url):
        return headers
    return headers | {name: value for name, value in found.custom_headers.items() if name.lower() not in _PROTECTED}


def _verify() -> bool | ssl.SSLContext:
    found = api_settings()
    if found.tls_insecure_skip_verify:
        return False
    if not found.ssl_cert_file:
        return True
    try:
        return ssl.create_default_context(cafile=found.ssl_cert_file)
    except (OSError, ssl.SSLError) as error:
        raise ApiError(
            f"{found.ssl_cert_file} (PREFECT_API_SSL_CERT_FILE or SSL_CERT_FILE): no certificates can be read there ({error}). "
            "Set it to a file of certificates, or unset it."
        ) from None
