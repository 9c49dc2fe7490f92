"""The environment of an engine process: the variables that the model libraries read, and no others.

Deny by default: Prefect's settings, cloud credentials and other people's tokens do not reach a process that loads
untrusted weights. The variables listed here are read by torch, transformers, huggingface_hub, their HTTP client or the
CUDA driver; another library's variable needs an entry here. Variables that change the bits of a result without being part
of the numerics class (TF32 overrides, MKL_CBWR, ATEN_CPU_CAPABILITY and the like) are left out on purpose.
"""

import os
import re
from collections.abc import Mapping

NAMES = frozenset({
    # the process
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV", "PYTHONPATH",
    "LD_LIBRARY_PATH", "CORAL_HOME", "CORAL_REHEARSAL_LOG", "CORAL_REHEARSAL_MACHINE",
    # the network: proxies in either case, and certificates of a company's own authority
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    # caches and the hub's token
    "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_CACHE",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
})  # fmt: skip
"""Variables passed on by their whole names."""
PREFIXES = ("LC_", "HF_", "TRANSFORMERS_", "SAFETENSORS_", "TORCH_", "PYTORCH_", "NVIDIA_", "CUDA_", "NCCL_", "GLOO_",
            "HIP_", "ROCR_", "HSA_")  # fmt: skip
"""Families of variables passed on, but for `_SECRET` and `OTHER_BITS`."""
OTHER_BITS = frozenset({"NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"})
"""Members of the families that change results and are part of no digest."""
_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|API_?KEY|ACCESS_?KEY)$")

DEFAULTS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""Set where the user does not: nvidia-smi, which names the device in the numerics class, counts GPUs in this order."""
DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""Without a fixed workspace cuBLAS may choose another algorithm for the same matrices from run to run."""
SET = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONHASHSEED": "0",
    # libraries must not write to the terminal, on which the run's progress is drawn
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
    **DETERMINISTIC,
}
"""Set in every engine process, over the variables that are passed on."""

_CREDENTIALS = re.compile(r"(?<=://)[^/\s'\"]*@")


def engine_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of an engine process started from a process with `environment`."""
    passed = {name: value for name, value in environment.items() if is_passed_on(name)}
    return DEFAULTS | passed | SET


def is_passed_on(name: str) -> bool:
    """True when the engine gets the variable called `name`.

    >>> [is_passed_on(name) for name in ("https_proxy", "HF_TOKEN", "PREFECT_API_KEY", "NVIDIA_TF32_OVERRIDE")]
    [True, True, False, False]
    """
    if name in NAMES or (name.lower().endswith("_proxy") and name.upper() in NAMES):
        return True
    return name.startswith(PREFIXES) and not _SECRET.search(name) and name not in OTHER_BITS


def without_credentials(text: str) -> str:
    """`text` without user and password in its URLs: errors of HTTP clients contain the URL of the proxy.

    >>> without_credentials("cannot reach http://me:secret@proxy:3128/")
    'cannot reach http://***@proxy:3128/'
    """
    return _CREDENTIALS.sub("***@", text)
