# Everything runs in .venv, which `make sync` builds from uv.lock; needs python3 >= 3.11, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
STAMP := $(VENV)/.synced
PROJECTS := pyproject.toml $(wildcard packages/*/pyproject.toml)
EDITABLES := $(addprefix -e ,$(patsubst %/,%,$(dir $(wildcard packages/*/pyproject.toml))))

# uv trusts the certificates that the system trusts, as pip does, and takes the index that pip was given.
export UV_SYSTEM_CERTS ?= 1
export UV_PYTHON_DOWNLOADS ?= never
ifndef UV_DEFAULT_INDEX
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX := $(PIP_INDEX_URL)
endif
endif

.DEFAULT_GOAL := help
.PHONY: help sync lock demo test test-all check format claims guide bench clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

sync: $(STAMP) ## Set up .venv as uv.lock says

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Degauss needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make sync PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.13'

$(STAMP): uv.lock $(PROJECTS) | $(UV)
	$(UV) export --quiet --frozen --all-packages --group dev --group golden --no-emit-workspace \
	  --no-header --no-annotate --output-file $(VENV)/requirements.txt
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes $(VENV)/requirements.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(EDITABLES)
	@touch $@

lock: | $(UV) ## Resolve again (ARGS='--upgrade-package NAME') and write uv.lock without a host
	$(UV) lock $(ARGS)
	$(BIN)/python scripts/index_agnostic.py uv.lock

demo: sync ## Forecast a real series; the table and the chart go to out/
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python packages/timeseries/examples/demo.py

test: sync ## Run the tests that take minutes
	$(BIN)/python -m pytest -m "not slow and not gpu" $(ARGS)

test-all: sync ## Run every test that this machine can run
	$(BIN)/python -m pytest $(ARGS)

check: sync ## Lint, types, import rules, guards, lock
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/workspace
	$(UV) lock --check --quiet

format: sync ## Put the code in the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

claims: sync ## Run every claim again and rewrite CLAIMS.md
	$(BIN)/degauss claims run
	$(BIN)/degauss claims table --output CLAIMS.md
	$(BIN)/degauss claims guide

guide: sync ## Rewrite docs/choosing.md and its plots from the records of the claims
	$(BIN)/degauss claims guide

bench: sync ## Time samplers and equations against hand-written loops and other libraries
	$(BIN)/python packages/core/benchmarks/sampling.py
	$(BIN)/python packages/core/benchmarks/sde.py

clean: ## Remove .venv and everything that tools left behind
	rm -rf $(VENV) out .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find packages tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
