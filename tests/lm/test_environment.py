"""What reaches an engine process: what the model libraries read, no secrets, nothing of Prefect."""

from pathlib import Path

import pytest

from coral_core.config.tree import BaseModelConfig
from coral_core.errors import EngineError
from coral_core.lm.engine_client import EngineProcess, _error_of
from coral_core.lm.engine_environment import SET, engine_environment, is_passed_on, without_credentials

READ_BY_LIBRARIES = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "XDG_CACHE_HOME",
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_HOME",
    "HF_HOME",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "TRANSFORMERS_OFFLINE",
    "TORCH_HOME",
    "NCCL_DEBUG",
    "PATH",
    "HOME",
    "LC_CTYPE",
    "NVIDIA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF",
    "HIP_VISIBLE_DEVICES",
]
KEPT_BACK = [
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "GITHUB_TOKEN",
    "WANDB_API_KEY",
    "OPENAI_API_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "DATABASE_URL",
    "KUBECONFIG",
    "HF_OTHER_SECRET",
    "TORCH_API_KEY",
    "NVIDIA_API_KEY",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "MKL_CBWR",
    "ATEN_CPU_CAPABILITY",
    "LD_PRELOAD",
    "SECRET_PROXY",
    "path",
]


@pytest.mark.parametrize("name", READ_BY_LIBRARIES)
def test_what_the_libraries_read_is_passed_on(name: str) -> None:
    assert is_passed_on(name) and engine_environment({name: "value"})[name] == "value"


@pytest.mark.parametrize("name", KEPT_BACK)
def test_everything_else_is_kept_back(name: str) -> None:
    assert not is_passed_on(name) and name not in engine_environment({name: "value"})


def test_what_results_depend_on_is_set_whatever_the_user_has() -> None:
    given = dict.fromkeys(SET, "other")
    found = engine_environment(given)
    assert {name: found[name] for name in SET} == SET
    assert found["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert found["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert engine_environment({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"})["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_an_engine_process_has_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*READ_BY_LIBRARIES, *KEPT_BACK):
        if name not in ("PATH", "HOME", "LD_PRELOAD", "PREFECT_API_URL", "HF_ENDPOINT"):
            monkeypatch.setenv(name, f"of {name}")
    engine = EngineProcess()
    try:
        engine.load(BaseModelConfig(name="rehearsal"))
        there = Path(f"/proc/{engine.pid}/environ").read_bytes().decode().split("\0")
    finally:
        engine.close()
    names = {entry.partition("=")[0] for entry in there}
    assert {"HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE", "CUBLAS_WORKSPACE_CONFIG", "HF_TOKEN"} <= names
    assert not names & set(KEPT_BACK)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ProxyError: http://me:s3cret@proxy:3128/ refused", "ProxyError: http://***@proxy:3128/ refused"),
        ("to https://me:p@ss@proxy.example", "to https://***@proxy.example"),
        ("https://token@host/path and http://plain/", "https://***@host/path and http://plain/"),
        ("no address: me@example.org", "no address: me@example.org"),
    ],
)
def test_credentials_of_a_proxy_are_in_no_error(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
    for kind in ("EngineError", "BaseModelError", "ConfigError", "StoreError", "Infeasible"):
        error = _error_of("load", {"error": kind, "reason": "diverged", "problem": f"{text}\n{text}", "remedy": text})
        assert shown in str(error)
        if shown != text:
            assert text not in str(error)


def test_an_engine_error_names_its_request() -> None:
    assert isinstance(_error_of("train", {"error": "x"}), EngineError)
