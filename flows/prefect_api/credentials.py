"""The key of the Prefect API: where it comes from, and which server it is sent to. Imports no Prefect.

Two kinds are known to Prefect: ``PREFECT_API_AUTH_STRING`` (USER:PASSWORD of a self-hosted server) and
``PREFECT_API_KEY`` (Prefect Cloud). They belong to the API that ``PREFECT_API_URL`` names and are sent to no other.
A server of this machine (`coral up --auth`) has a key of its own in ``CORAL_HOME/api-key``, readable by its owner
alone; whether that file is there is the setting. A key stands in no command line, log, message or record.
"""

import base64
import contextlib
import hashlib
import os
import re
import secrets
import stat
from pathlib import Path
from typing import NamedTuple

from coral_core.errors import ConfigError
from flows.prefect_api.api_errors import ApiError
from flows.prefect_api.api_settings import api_settings, export

KEY_FILE = "api-key"
USER = "coral"
PLAIN = re.compile(r"[\w.-]+:[\w.~-]{16,}")
"""What a key file holds: USER:PASSWORD in characters that need no quoting anywhere."""
LONGEST = 1024


class KeyFileError(ApiError):
    """The key of the local server cannot be used, or must not be trusted any more."""


class KeyRefusedError(ApiError):
    """The API asks for a key, and got none or another."""


class Credential(NamedTuple):
    """What is presented to an API. Not printed: `source` says where it came from."""

    header: str
    source: str

    def __repr__(self) -> str:
        return f"Credential(source={self.source!r})"


def key_file(home: Path) -> Path:
    """Where the key of the local server of `home` is, if it has one."""
    return home / KEY_FILE


def make_key(home: Path) -> Path:
    """Generate a key for the local server of `home` unless it has one; returns its file, which its owner alone can read.

    The file comes into being whole and with mode 600: it is written under another name that nobody else may open, and
    linked. Raises `KeyFileError`.
    """
    path = key_file(home)
    if read_key(home) is not None:
        return path
    scratch = home / f".{KEY_FILE}.{os.getpid()}.{secrets.token_hex(8)}"
    try:
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, f"{USER}:{secrets.token_urlsafe(32)}\n".encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        with contextlib.suppress(FileExistsError):  # made by another command at this moment
            os.link(scratch, path)
    except OSError as error:
        raise KeyFileError(
            f"{path}: the key cannot be written ({error.strerror}). Set CORAL_HOME to a folder of a local disk that you can write."
        ) from None
    finally:
        scratch.unlink(missing_ok=True)
    if read_key(home) is None:
        raise KeyFileError(
            f"{path}: the key that was just written is not there. Is somebody else using this CORAL_HOME?"
        )
    return path


def read_key(home: Path) -> str | None:
    """USER:PASSWORD of the local server of `home`; None where there is no key file.

    Raises:
        KeyFileError: the file is no regular file of ours, others may read it, or it holds something else.
    """
    path = key_file(home)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read ({error.strerror}). {_anew(path)}") from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise KeyFileError(f"{path}: is no file. {_anew(path)}")
        if found.st_uid != os.geteuid() and os.geteuid() != 0:
            raise KeyFileError(f"{path}: belongs to user number {found.st_uid}, not to you. {_anew(path)}")
        if found.st_mode & 0o077:
            raise KeyFileError(
                f"{path}: others can read or write it (mode {stat.S_IMODE(found.st_mode):03o}), so it is no secret any more. {_anew(path)}"
            )
        text = os.read(handle, LONGEST + 1).decode("utf-8", "replace").strip()
    finally:
        os.close(handle)
    if len(text) > LONGEST or not PLAIN.fullmatch(text):
        raise KeyFileError(f"{path}: holds no USER:PASSWORD. {_anew(path)}")
    return text


def remove_key(home: Path) -> None:
    """The local server of `home` has no key from its next start on."""
    key_file(home).unlink(missing_ok=True)


def fingerprint(key: str | None) -> str:
    """Tells two keys apart without telling either; empty for none."""
    return hashlib.sha256(key.encode()).hexdigest()[:16] if key else ""


def credential_for(url: str) -> Credential | None:
    """What to present to the API at `url`: the configured key for the configured API, the local server's for the local one.

    Raises:
        KeyFileError: `url` is the local server, and its key file cannot be used.
    """
    from flows.prefect_api.local_server import coral_home

    found = api_settings()
    configured, local = same_api(url, found.url), same_api(url, _living())
    if local and not (configured and found.auth_string) and (own := read_key(coral_home())):
        return Credential(_basic(own), str(key_file(coral_home())))
    if not configured and not local:
        return None
    if found.auth_string:  # Prefect's client prefers it, too
        return Credential(_basic(found.auth_string), f"PREFECT_API_AUTH_STRING ({_origin('PREFECT_API_AUTH_STRING')})")
    if found.key:
        return Credential(f"Bearer {found.key}", f"PREFECT_API_KEY ({_origin('PREFECT_API_KEY')})")
    return None


def use_credential(url: str) -> None:
    """Let Prefect's client in this process, and in what it starts, present the local server's key where `url` is that server.

    A key that is configured for a configured `url` is left to Prefect, which reads the same settings.
    """
    from flows.prefect_api.local_server import coral_home

    if not same_api(url, _living()) or (own := read_key(coral_home())) is None:
        return
    found = api_settings()
    if not (same_api(url, found.url) and found.auth_string):
        export({"PREFECT_API_AUTH_STRING": own})


def refused(url: str, status: int) -> KeyRefusedError:
    """What to say when the API at `url` answers 401 or 403: which key it got, and where that came from."""
    try:
        sent = credential_for(url)
    except (KeyFileError, ConfigError) as error:
        return KeyRefusedError(f"{url} asks for a key ({status}). {error}")
    if sent is not None:
        return KeyRefusedError(
            f"{url} refuses the key ({status}). Set PREFECT_API_KEY (Prefect Cloud), or PREFECT_API_AUTH_STRING (USER:PASSWORD, a server "
            f"of your own; goes before the other), to another: it was sent that of {sent.source}. With neither, coral up's server gets "
            "its key from CORAL_HOME/api-key; where that was changed: coral down, coral up"
        )
    return KeyRefusedError(
        f"{url} asks for a key ({status}), and none is configured for it. Set PREFECT_API_URL to it and PREFECT_API_AUTH_STRING to "
        "USER:PASSWORD (a server of your own; that of coral up has its key in CORAL_HOME/api-key), or PREFECT_API_KEY (Prefect Cloud)"
    )


def _basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _origin(name: str) -> str:
    return "in the environment" if os.environ.get(name) else "of the active Prefect profile or settings file"


def same_api(one: str | None, other: str | None) -> bool:
    """Do both name the same API? By their text: a name that may mean another machine is another API."""
    return bool(one) and bool(other) and str(one).rstrip("/") == str(other).rstrip("/")


def _living() -> str:
    """URL of the local server, while it lives and can be looked at."""
    from flows.prefect_api.local_server import ServerError, living

    try:
        return living()
    except (OSError, ServerError):
        return ""


def _anew(path: Path) -> str:
    return f"Make another: coral down, rm {path}, coral up --auth"
