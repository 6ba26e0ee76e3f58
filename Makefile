# The only front door. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export UV_PYTHON_DOWNLOADS := never
# Tests and benches start hundreds of processes: what they import is compiled once, as it is for those who install wheels.
export UV_COMPILE_BYTECODE := 1
export PYTHONDONTWRITEBYTECODE :=
COMPILE := $(BIN)/uv pip compile -q --generate-hashes --no-annotate --universal --python-version 3.11 --custom-compile-command "make locks" \
	--no-emit-package windlass --no-emit-package windlass-operator --no-emit-package windlass-runner

.PHONY: help
help: ## List the targets.
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

.PHONY: locks
locks: ## Make the hash-pinned requirements again from the pyproject files.
	$(COMPILE) requirements/uv.in -o requirements/uv.txt
	$(COMPILE) --all-extras --group pyproject.toml:dev pyproject.toml -o requirements/dev.txt
	$(COMPILE) operator/pyproject.toml -c requirements/dev.txt -o requirements/operator.txt
	$(COMPILE) runner-image/pyproject.toml -c requirements/dev.txt -o requirements/runner.txt
	$(COMPILE) --extra cli --resolution lowest-direct sdk/pyproject.toml -o requirements/sdk-lowest.txt
	$(COMPILE) requirements/sdk-lowest-tests.in -c requirements/dev.txt -o requirements/sdk-lowest-tests.txt

$(VENV)/.made: requirements/uv.txt requirements/dev.txt sdk/pyproject.toml operator/pyproject.toml runner-image/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Windlass needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Set PYTHON=/path/to/python3.11.")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip install -q --require-hashes -r requirements/dev.txt
	$(BIN)/uv pip install -q --no-deps --no-build-isolation -e sdk -e operator -e runner-image
	@touch $@

.PHONY: setup
setup: $(VENV)/.made ## Make .venv with everything a checkout needs.

.PHONY: fmt
fmt: setup ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only -q .

.PHONY: lint
lint: setup ## Style, formatting and the layer contracts.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

.PHONY: types
types: setup ## mypy, strict.
	$(BIN)/mypy

PYTEST := $(BIN)/python -m pytest
# Workers of the suites that take long. Each has a PostgreSQL of its own.
AT_ONCE ?= 2
E2E_AT_ONCE ?= 3

.PHONY: unit
unit: setup ## Rules, models, SDK and runner parts: no services.
	$(PYTEST) tests/unit

# Only Python 3.11 has wheels of all the oldest versions. Where there is none, `make test` says so and goes on.
LOWEST := .venv-sdk-lowest
LOWEST_PYTHON ?= $(shell for p in python3.11 $(PYTHON); do $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$p && break; done)
LOWEST_LOCKS := requirements/sdk-lowest.txt requirements/sdk-lowest-tests.txt

$(LOWEST)/.made: $(LOWEST_LOCKS) | setup
	rm -rf $(LOWEST)
	$(BIN)/uv venv -q --python $(LOWEST_PYTHON) $(LOWEST)
	$(BIN)/uv pip install -q --python $(LOWEST)/bin/python --require-hashes $(addprefix -r ,$(LOWEST_LOCKS))
	@touch $@

.PHONY: sdk-lowest
ifeq ($(LOWEST_PYTHON),)
sdk-lowest: ## The SDK alone, as a wheel, with the lowest versions it declares.
	@echo "sdk-lowest: NOT RUN. It needs Python 3.11, and there is none. Set LOWEST_PYTHON=/path/to/python3.11."
else
sdk-lowest: setup $(LOWEST)/.made
	@rm -rf $(LOWEST)/dist && cd sdk && { said=$$(../$(BIN)/python -m hatchling build -t wheel -d ../$(LOWEST)/dist 2>&1) || { echo "$$said"; exit 1; }; }
	@$(BIN)/uv pip install -q --python $(LOWEST)/bin/python --no-deps --reinstall $(LOWEST)/dist/*.whl
	@$(LOWEST)/bin/python -c 'import importlib.util as u, sys; found = [n for n in ("windlass_operator", "windlass_runner", "kubernetes") if u.find_spec(n)]; sys.exit(f"{found} must not be here" if found else 0)'
	$(LOWEST)/bin/python -m pytest tests/unit/sdk --confcutdir=tests/unit/sdk
endif

.PHONY: ledger
ledger: setup postgres ## SQL and races on a real PostgreSQL.
	$(PYTEST) tests/ledger

# Takes minutes, so it is no part of `make test`; of what it proves, tests/unit/test_mutants.py checks that no patch has expired.
.PHONY: mutants
mutants: setup postgres ## Put each known bug into a copy of the tree; the tests named for it must fail.
	$(BIN)/python -m tests.mutants $(MUTANTS)

.PHONY: postgres
postgres:
	@ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null || { \
	  echo "No PostgreSQL server found; installing it with apt-get."; apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq postgresql >/dev/null; }

.PHONY: compiler
compiler:
	@command -v cc >/dev/null || { \
	  echo "No C compiler found, which the shim is built with; installing it with apt-get."; apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq gcc libc6-dev >/dev/null; }

.PHONY: generate
generate: setup ## Write the CRDs and the reference tables from the code.
	$(BIN)/python -m windlass_operator.resources.generate --write
	$(BIN)/python -m windlass.cli.reference docs/reference/cli.md

.PHONY: verify
verify: setup ## Check that generated files are current.
	$(BIN)/python -m windlass_operator.resources.generate --check
	$(BIN)/python -m windlass.cli.reference - | diff docs/reference/cli.md - || { echo "docs/reference/cli.md: run \`make generate\` and commit"; exit 1; }

.PHONY: cluster-up cluster-down cluster-status images
cluster-up: ## Start the one-node cluster (or check an existing one).
	@$(PYTHON) -m e2e.cluster up
cluster-down: ## End the one-node cluster and everything in it.
	@$(PYTHON) -m e2e.cluster down
cluster-status: ## Say what runs.
	@$(PYTHON) -m e2e.cluster status
images: cluster-up ## Build the images and bring them into the cluster.
	@$(PYTHON) -m e2e.cluster images

.PHONY: demo
demo: setup images ## The main job, from nothing: cluster, images, Helm, a run whose pod is killed.
	@$(PYTHON) -m e2e.demo

.PHONY: integration
integration: setup postgres compiler ## The real runner against the real API and a real ledger; the object store's contract.
	$(PYTEST) tests/integration tests/contracts -n $(AT_ONCE)

.PHONY: faults
faults: setup postgres ## Broken links, lost commits, zombies, killed and promoted databases. FAULTS=all takes longer.
	FAULTS=$(FAULTS) $(PYTEST) tests/faults

# CRASH_ONLY='…', as each failure prints it, repeats one; SEED=… takes a sample again.
.PHONY: crash
crash: setup postgres ## Crash at every call of runner, API and operator, and check what comes of it. SAMPLE=n: some of them.
	$(BIN)/python -m tests.crash

.PHONY: crash-sample
crash-sample: setup postgres ## A sample of `make crash`, another one each time, in five minutes at most.
	SAMPLE=$${SAMPLE:-120} CRASH_SECONDS=$${CRASH_SECONDS:-240} $(BIN)/python -m tests.crash

.PHONY: cluster-test
cluster-test: setup cluster-up ## The one-node cluster itself: it comes back from whatever ends it.
	@if [ "$$WINDLASS_CLUSTER" = existing ]; then echo "cluster-test: NOT RUN. The cluster is somebody else's."; \
	  else $(PYTEST) e2e/cluster --timeout 300; fi

# Scenarios wait more than they compute, so a few run side by side; those that disturb others run afterwards, alone.
.PHONY: e2e
e2e: setup images ## What users do, on a real cluster.
	$(PYTEST) e2e/scenarios --timeout 300 -m "not alone" -n $(E2E_AT_ONCE) --dist loadfile; first=$$?; \
	  WINDLASS_E2E_INSTALLED=1 $(PYTEST) e2e/scenarios --timeout 300 -m alone && exit $$first

.PHONY: test
test: ## Everything: lint, types, unit, sdk-lowest, ledger, integration, faults, crash-sample, cluster, e2e.
	@start=$$SECONDS; for target in setup lint types verify cluster-up unit sdk-lowest ledger integration faults crash-sample cluster-test e2e; do \
	  echo "▸ make $$target"; $(MAKE) --no-print-directory $$target || exit 1; done; \
	  echo "all green in $$((SECONDS - start)) s"

.PHONY: bench
bench: setup postgres ## Measure: local processes, and the cluster if Windlass is installed in it. Writes .bench/latest.json.
	$(BIN)/python -m bench

.PHONY: bench-peers
bench-peers: setup postgres ## Measure beside procrastinate, DBOS, Restate, Temporal and Argo. Needs npm and Go; builds what it lacks.
	$(BIN)/python -m bench.peers $(PARTS)

.PHONY: bench-soak
bench-soak: setup postgres ## Constant load for WINDLASS_SOAK_MINUTES (20) beside a session that is idle in a transaction.
	$(BIN)/python -m bench.soak

.PHONY: bench-gate bench-baseline
bench-gate: setup postgres ## Fail if this tree is slower than bench/baseline.json says: ratios, never milliseconds.
	@$(BIN)/python -m bench.gate
bench-baseline: setup postgres ## Write bench/baseline.json again, when a change is meant to cost more, or costs less.
	@$(BIN)/python -m bench.gate --write

.PHONY: peer-locks
peer-locks: setup ## Make the hash-pinned lists of what bench-peers installs again. Needs npm.
	$(subst "make locks","make peer-locks",$(COMPILE)) bench/peers/requirements.in -o bench/peers/requirements.txt
	cd bench/peers && npm install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved --silent
