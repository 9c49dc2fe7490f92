#!/usr/bin/env bash
# The judge's tests as an ordinary user with every capability dropped, and in a plain container where Docker runs.
# Started by the superuser; takes a Python that everybody may run (PYTHON=, default the system's) and lends it the
# packages of .venv, which must be of the same minor version.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-/usr/bin/python3}
wanted=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
have=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo none)
if [ "$(id -u)" != 0 ]; then
    echo "== you are an ordinary user already: make test is this test"
    exit 0
fi
if [ "$have" != "$wanted" ]; then
    echo "== skipped: $python is Python $have and .venv is $wanted. Name one that everybody may run with PYTHON=" >&2
    exit 0
fi
place=$(mktemp -d /tmp/coral-unprivileged.XXXXXX)
trap 'rm -rf "$place"' EXIT
mkdir "$place/code" "$place/packages" "$place/home"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$place/code"
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
tar -C "$site" -cf - --exclude='torch*' --exclude='transformers*' --exclude='nvidia*' --exclude='*coral_x*' . | tar -C "$place/packages" -xf -
mkdir -p "$place/packages/bin"
cp .venv/bin/ruff "$place/packages/bin/"
chown -R 65534:65534 "$place"
export PYTHONPATH="$place/code:$place/packages" HOME="$place/home" TMPDIR="$place/home" PYTHONDONTWRITEBYTECODE=1
# a problem's own package is recorded by a process of its interpreter, hence only the judge and what it stands on
suite="-m pytest -p no:cacheprovider -m 'not torch and not server' -rs tests/judge tests/scoring"

echo "== as user 65534, all capabilities dropped, no new privileges"
setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs \
    bash -c "cd '$place/code' && PATH='$place/packages/bin:/usr/bin:/bin' $python $suite"

image=${IMAGE:-python:$wanted-slim}
if ! docker image inspect "$image" >/dev/null 2>&1; then
    echo "== container: skipped, because Docker has no image $image here. Name one with IMAGE="
    exit 0
fi
echo "== in a plain container of $image, all capabilities dropped"
docker run --rm --network none --cap-drop ALL --security-opt no-new-privileges --user 65534:65534 --tmpfs /tmp:exec \
    -v "$place/code:/code:ro" -v "$place/packages:/packages:ro" -w /code \
    -e PYTHONPATH=/code:/packages -e HOME=/tmp -e PYTHONDONTWRITEBYTECODE=1 \
    "$image" bash -c "PATH=/packages/bin:\$PATH python3 $suite"
