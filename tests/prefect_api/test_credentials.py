"""Where the API's key comes from, which server it is sent to, and how its file is made and read."""

import base64
import json
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.context import refresh_global_settings_context

from flows.prefect_api import credentials, local_server
from flows.prefect_api.api_errors import ApiError, KeyFileError, KeyRefusedError
from flows.prefect_api.client import RestClient
from flows.prefect_api.credentials import credential_for
from flows.prefect_api.local_server import fingerprint, key_file, make_key, read_key
from flows.prefect_api.settings import export_connection

LOCAL = "http://127.0.0.1:4200/api"
TEAM = "https://prefect.example/api"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_CLIENT_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CORAL_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    return tmp_path


@pytest.fixture
def local(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A local server lives, with a key."""
    make_key(home)
    monkeypatch.setattr(local_server, "living", lambda: LOCAL)
    return str(read_key(home))


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def header(url: str) -> str | None:
    found = credential_for(url)
    return found.header if found else None


# -- the file ------------------------------------------------------------------------------


def test_a_key_is_long_random_and_for_its_owner_alone_whatever_the_umask(home: Path) -> None:
    before = os.umask(0)
    try:
        path = make_key(home)
    finally:
        os.umask(before)
    assert path == key_file(home) and stat.S_IMODE(path.stat().st_mode) == 0o600
    user, _, password = str(read_key(home)).partition(":")
    assert user == "coral" and len(password) >= 43
    assert [entry.name for entry in home.iterdir() if "api-key" in entry.name] == ["api-key"], (
        "nothing half-written is left"
    )


def test_it_is_never_there_with_another_mode_or_half_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    replace = os.replace

    def spied(source: str, target: Path) -> None:
        assert not key_file(home).exists() and Path(source).read_text().startswith("coral:")
        seen.append(stat.S_IMODE(Path(source).stat().st_mode))
        replace(source, target)

    monkeypatch.setattr(local_server.os, "replace", spied)
    before = os.umask(0)
    try:
        make_key(home)
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_a_second_call_keeps_the_key_and_many_at_once_agree(home: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: make_key(home), range(16)))
    first = read_key(home)
    make_key(home)
    assert first is not None and read_key(home) == first


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o602, 0o666])
def test_a_key_that_others_can_read_or_write_is_refused(home: Path, mode: int) -> None:
    make_key(home).chmod(mode)
    with pytest.raises(KeyFileError, match=rf"others can read or write it \(mode {mode:03o}\).*coral up --auth"):
        read_key(home)


def test_what_is_no_key_is_refused(home: Path) -> None:
    path = key_file(home)
    for content in (
        b"",
        b"secret",
        b"coral:short",
        b"coral:" + b"x" * 2000,
        b"a:b\nc:d",
        b"coral:\xff" * 9,
        b"\0" * 64,
    ):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(KeyFileError) as refused:
            read_key(home)
        assert b"secret" not in content or "secret" not in str(refused.value).removeprefix(str(path))[:30]
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(KeyFileError):
        read_key(home)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyFileError, match="is no file"):  # and does not hang
        read_key(home)
    path.unlink()
    path.mkdir(mode=0o700)
    with pytest.raises(KeyFileError):
        read_key(home)


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_fingerprint_tells_keys_apart_and_holds_neither(one: str, other: str) -> None:
    assert (fingerprint(one) == fingerprint(other)) is (one == other)
    assert len(fingerprint(one)) == 16 and fingerprint(None) == ""


# -- which server gets what ----------------------------------------------------------------


def test_the_local_server_gets_its_own_key_and_no_other_server_does(local: str) -> None:
    assert header(LOCAL) == basic(local)
    assert header(LOCAL + "/") == basic(local)
    for other in (TEAM, "http://127.0.0.1:4201/api", "http://localhost:4200/api", "http://127.0.0.1:4200@evil/api"):
        assert header(other) is None


def test_a_dead_local_server_gets_nothing(home: Path) -> None:
    """Its port may be another user's by now."""
    make_key(home)
    (home / "server.json").write_text(json.dumps({"pid": os.getpid(), "url": LOCAL}))
    assert header(LOCAL) is None


def test_what_is_configured_goes_to_the_configured_api_alone(local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", TEAM)
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_cloud")
    assert (header(TEAM), header(LOCAL)) == ("Bearer pnu_cloud", basic(local))
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "team:secret")
    assert header(TEAM) == basic("team:secret"), "as Prefect's own client prefers it"
    assert header(LOCAL) == basic(local) and header("http://evil.example/api") is None


def test_a_key_that_is_set_for_the_local_server_goes_before_its_file(
    local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", LOCAL)
    assert header(LOCAL) == basic(local)
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_cloud")
    assert header(LOCAL) == basic(local), "a key of Prefect Cloud is of no use there"
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "coral:given")
    assert header(LOCAL) == basic("coral:given")


def test_prefects_settings_of_a_profile_count(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "prefect").mkdir()
    (home / "prefect" / "profiles.toml").write_text(
        f'active = "team"\n[profiles.team]\nPREFECT_API_URL = "{TEAM}"\nPREFECT_API_AUTH_STRING = "team:secret"\n'
    )
    found = credential_for(TEAM)
    assert found is not None and found.header == basic("team:secret") and "environment" not in found.source


@pytest.mark.parametrize("configured", [True, False])
def test_plain_requests_send_key_and_headers_to_the_configured_api_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, configured: bool
) -> None:
    heard: list[tuple[str | None, str | None]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append((self.headers.get("Authorization"), self.headers.get("X-Access")))
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/api"
    monkeypatch.setenv("PREFECT_API_URL", url if configured else TEAM)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "team:secret")
    monkeypatch.setenv("PREFECT_CLIENT_CUSTOM_HEADERS", '{"X-Access": "token"}')
    with pytest.raises(KeyRefusedError) as refused, RestClient(url) as api:
        api.version()
    server.shutdown()
    assert heard == [(basic("team:secret"), "token") if configured else (None, None)]
    text = str(refused.value)
    assert ("that of PREFECT_API_AUTH_STRING" if configured else "none is configured for it") in text
    assert "secret" not in text


def test_a_key_of_a_profile_is_still_one_after_it_was_exported(home: Path) -> None:
    (home / "prefect").mkdir()
    (home / "prefect" / "profiles.toml").write_text(
        f'active = "team"\n[profiles.team]\nPREFECT_API_URL = "{TEAM}"\nPREFECT_API_KEY = "pnu_x"\n'
    )
    before = dict(os.environ)
    try:
        export_connection(TEAM)
        found = credential_for(TEAM)
    finally:
        os.environ.clear()
        os.environ.update(before)
        refresh_global_settings_context()
    assert found == ("Bearer pnu_x", "PREFECT_API_KEY")


def test_the_local_servers_key_is_still_its_own_after_it_was_exported(
    local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", LOCAL)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", local)
    found = credential_for(LOCAL)
    assert found is not None and found.source.endswith("api-key")


def test_no_text_holds_a_key(local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = local.partition(":")[2]
    found = credential_for(LOCAL)
    assert secret not in repr(found) and secret not in str(found) and basic(local) not in repr(found)
    assert secret not in str(credentials.key_refused(LOCAL, 401))
    monkeypatch.setenv("PREFECT_API_URL", TEAM)
    monkeypatch.setenv("PREFECT_API_KEY", secret)
    assert secret not in str(credentials.key_refused(TEAM, 403))


def test_a_key_file_that_cannot_be_used_is_an_error_of_the_api(local: str, home: Path) -> None:
    key_file(home).chmod(0o644)
    with pytest.raises(ApiError, match="others can read"):
        RestClient(LOCAL)
    assert "others can read" in str(credentials.key_refused(LOCAL, 401))


def test_engines_never_see_a_key() -> None:
    """Their environment is made of what is passed on by name; a patch's child holds nothing at all."""
    from coral_core.lm.engine_environment import engine_environment

    names = ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_KEY", "PREFECT_API_URL")
    assert not set(names) & set(engine_environment(dict.fromkeys(names, "secret")))
