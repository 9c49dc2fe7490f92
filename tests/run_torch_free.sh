#!/usr/bin/env bash
# Runs the tests of the torch-free part on every Python from 3.12 to 3.13 that is on this machine
# (3.11 runs the whole suite). Each gets a small environment of its own, made once.
set -euo pipefail
cd "$(dirname "$0")/.."
folders="tests/config tests/problems tests/problem_sources tests/prompting tests/judge tests/scoring tests/search tests/store tests/report"
found=0
for minor in 12 13; do
    python=$(command -v "python3.$minor" || true)
    if [ -z "$python" ] || ! "$python" -c "import sys; sys.exit(sys.version_info[:2] != (3, $minor))" 2>/dev/null; then
        python=$(ls "$HOME"/.pyenv/versions/3."$minor".*/bin/python 2>/dev/null | tail -n 1 || true)
    fi
    [ -n "$python" ] || continue
    found=$((found + 1))
    venv=.venv-3$minor
    if [ ! -e "$venv/.installed" ] || [ pyproject.toml -nt "$venv/.installed" ]; then
        "$python" -m venv "$venv"
        # What the package and its tests need, read from pyproject.toml so that no list is kept twice.
        "$python" - > "$venv/requirements.txt" <<'PYTHON'
import re
import tomllib

heavy = {"torch", "transformers", "peft", "tokenizers", "prefect"}
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
    if re.split(r"[^A-Za-z0-9-]", requirement)[0] not in heavy:
        print(requirement)
PYTHON
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt \
            -r "$venv/requirements.txt" huggingface-hub
        touch "$venv/.installed"
    fi
    echo "== torch-free part on $("$venv/bin/python" --version)"
    # shellcheck disable=SC2086
    "$venv/bin/python" -m pytest -n 3 --dist loadfile -m "not torch and not server and not slow" $folders
done
[ "$found" -gt 0 ] || echo "== no other Python (3.12, 3.13) here: the torch-free part ran on $(python3 --version) only"
