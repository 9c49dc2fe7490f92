#!/usr/bin/env bash
# Makes the virtual environment: bash deployments/make_env.sh PYTHON VENV [cpu]
set -euo pipefail
python=$1 venv=$2 torch=${3:-}

"$python" - <<'PY' || exit 1
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"error: {sys.executable} is Python {sys.version.split()[0]}; CORAL-X needs 3.11 to 3.13. Try: make env PYTHON=python3.11")
try:
    import ensurepip  # noqa: F401
except ImportError:
    sys.exit("error: this Python has no venv module. On Debian: apt-get install python3-venv")
PY

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip="$venv/bin/python -m pip install --quiet --disable-pip-version-check"
if [ "$torch" = cpu ] && ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    # uv knows where PyTorch keeps its CPU builds, so that no package index is named here
    $pip 'uv<1'
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --torch-backend cpu 'torch>=2.6,<2.14' ||
        echo "note: no CPU build of torch through uv; taking what pip is configured to offer" >&2
fi
echo "setting up $venv (a few minutes the first time)"
$pip -c constraints.txt -e '.[dev]'
