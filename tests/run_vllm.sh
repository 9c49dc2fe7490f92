#!/usr/bin/env bash
# Runs the tests of the vLLM engine with the real vLLM: bash tests/run_vllm.sh PYTHON
# vLLM gets an environment of its own, made once (CORAL_VLLM_PYTHON names another one); without it nothing is tested.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 venv=.venv-vllm
if [ -z "${CORAL_VLLM_PYTHON:-}" ]; then
    bash deployments/make_vllm_env.sh "$python" "$venv" || { echo "skipped: vLLM cannot be installed here (see above)"; exit 0; }
    CORAL_VLLM_PYTHON=$PWD/$venv/bin/python
fi
export CORAL_VLLM_PYTHON
exec .venv/bin/python -m pytest -m '' -rs -s tests/lm/test_real_vllm.py
