#!/usr/bin/env bash
# Generates the passwords of deployments/compose.yaml: bash deployments/make_secrets.sh [FILE]
# They go to deployments/.env, which docker compose reads by itself, with mode 600 from its first byte on. A file that
# is there is left alone: remove it to have new ones (docs/security.md says what else that takes).
set -euo pipefail
file=${1:-$(dirname "$0")/.env}
umask 077
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

[ ! -e "$file" ] && [ ! -L "$file" ] || { echo "$file is there already and is left as it is"; exit 0; }
scratch=$(mktemp "$file.XXXXXX")
trap 'rm -f "$scratch"' EXIT
printf 'CORAL_API_PASSWORD=%s\nPOSTGRES_PASSWORD=%s\n' "$(random)" "$(random)" > "$scratch"
ln -T "$scratch" "$file" # unlike a rename it never replaces one that somebody else has just made
echo "wrote $file (mode 600). The Prefect UI asks for: coral:PASSWORD, with the value of CORAL_API_PASSWORD"
