"""Chooses the key that is sent to a Prefect API. Imports no Prefect.

Prefect has two kinds of key: ``PREFECT_API_AUTH_STRING`` (USER:PASSWORD of a self-hosted server) and ``PREFECT_API_KEY``
(Prefect Cloud). They belong to the API that ``PREFECT_API_URL`` names and are sent to no other. A local server with a
key (`flows.prefect_api.local_server`) gets its own. A key is never written to a command line, log, message or record.
"""

import base64
from typing import NamedTuple

from coral_core.errors import ConfigError
from flows.prefect_api import local_server
from flows.prefect_api.api_errors import KeyFileError, KeyRefusedError, ServerError
from flows.prefect_api.local_server import coral_home, key_file, read_key
from flows.prefect_api.settings import api_settings, export


class Credential(NamedTuple):
    """Value of an Authorization header, and where it comes from. Its repr shows only the source."""

    header: str
    source: str

    def __repr__(self) -> str:
        return f"Credential(source={self.source!r})"


def credential_for(url: str) -> Credential | None:
    """The key for an API: the configured one for the configured API, the local server's for the local server.

    Returns:
        None for any other API, and where there is no key.

    Raises:
        KeyFileError: `url` is the local server, and its key file cannot be used.
    """
    found = api_settings()
    configured, local = same_api(url, found.url), same_api(url, _local_server())
    if local:
        own = read_key(coral_home())
        given = found.auth_string if configured else None
        if own and given in (None, "", own):  # equal: it was exported by `use_credential`
            return Credential(_basic(own), str(key_file(coral_home())))
    if (configured or local) and found.auth_string:  # Prefect's client prefers it, too
        return Credential(_basic(found.auth_string), "PREFECT_API_AUTH_STRING")
    if (configured or local) and found.key:
        return Credential(f"Bearer {found.key}", "PREFECT_API_KEY")
    return None


def use_credential(url: str) -> None:
    """If `url` is the local server, export its key for Prefect's client in this process and its children.

    Does nothing for other APIs: Prefect reads the key of the configured API from its own settings.
    """
    if not same_api(url, _local_server()) or (own := read_key(coral_home())) is None:
        return
    found = api_settings()
    if not (same_api(url, found.url) and found.auth_string):
        export({"PREFECT_API_AUTH_STRING": own})


def key_refused(url: str, status: int) -> KeyRefusedError:
    """The error for an API that refuses a request; it names the source of the key that was sent.

    Args:
        url: The API.
        status: HTTP status of its answer, 401 or 403.
    """
    try:
        sent = credential_for(url)
    except (KeyFileError, ConfigError) as error:
        return KeyRefusedError(f"{url} asks for a key ({status}). {error.problem}", remedy=error.remedy)
    remedy = (
        "Set PREFECT_API_URL to it, and PREFECT_API_AUTH_STRING to USER:PASSWORD (a server of your own) or PREFECT_API_KEY "
        "(Prefect Cloud). The server of coral up has its key in CORAL_HOME/api-key; where that was changed: coral down, coral up"
    )
    if sent is None:
        return KeyRefusedError(f"{url} asks for a key ({status}), and none is configured for it", remedy=remedy)
    sent_it = f"It was sent that of {sent.source} (prefect config view says where a setting comes from)"
    return KeyRefusedError(f"{url} refuses the key ({status})", remedy=f"{sent_it}. {remedy}")


def same_api(one: str | None, other: str | None) -> bool:
    """Whether two URLs name the same API.

    They are compared as text, but for a slash at the end: a host name may resolve to another machine.

    Args:
        one: A URL; None or "" is no API.
        other: The URL that it is compared with.

    Example:
        >>> same_api("http://127.0.0.1:4200/api", "http://127.0.0.1:4200/api/")
        True
        >>> same_api(None, None)
        False
    """
    return bool(one) and bool(other) and str(one).rstrip("/") == str(other).rstrip("/")


def _basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _local_server() -> str:
    """URL of the local server while it lives; "" when it does not, or when its home cannot be read."""
    try:
        return local_server.living()
    except (OSError, ServerError):
        return ""
