# Everything one does with this repository. `make` alone lists the targets.
# A fresh machine needs Python 3.11 to 3.13 and make; the rest is installed into .venv from requirements.txt.

SHELL := /bin/bash
.DEFAULT_GOAL := help
# uv trusts what the system trusts, as pip does.
export UV_SYSTEM_CERTS = 1

.PHONY: help setup run up down status test test-unit test-faults test-scale bench bench-gate bench-lock check fmt dags lock schema sql-docs clean

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTHON ?=

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## install everything into .venv

$(INSTALLED): requirements.txt requirements-bootstrap.txt pyproject.toml scripts/find_python.sh
	@python="$$(bash scripts/find_python.sh $(if $(PYTHON),"$(PYTHON)"))" || exit 1; \
	version="$$("$$python" --version)"; \
	test ! -x $(BIN)/python || test "$$($(BIN)/python --version)" = "$$version" || rm -rf $(VENV); \
	echo "Installing into $(VENV) with $$version (about 3 GB, most of it TensorFlow)"; \
	test -x $(BIN)/python || "$$python" -m venv $(VENV) || \
		{ echo "error: $$python cannot make a virtual environment; install its venv module (python3-venv on Debian)" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.txt
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.txt requirements-bootstrap.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

run: setup ## start everything, label the sample photos, print labels and links, stay up until Ctrl-C (ONCE=1: stop when done)
	@exec $(BIN)/python -m local_stack run $(if $(filter-out 0,$(ONCE)),--once)

up: setup ## start Postgres, the object store and Airflow in the background
	@exec $(BIN)/python -m local_stack up

down: setup ## stop them
	@exec $(BIN)/python -m local_stack down

status: setup ## say what of them is running
	@exec $(BIN)/python -m local_stack status

test: setup ## everything that needs no GPU, browser or hour
	@$(BIN)/python -m pytest

test-faults: setup ## kill, cut and starve it some hundred times, and check the books (half an hour; SEED=n repeats a run)
	@$(BIN)/python -m pytest tests/faults --faults-full $(if $(SEED),--seed $(SEED))
	@$(BIN)/python -m pytest tests/unit tests/integration tests/e2e --faults-full -m full $(if $(SEED),--seed $(SEED))

test-scale: setup ## at ten million outcomes: time what analysts ask and workers write, list a million keys; print the figures (twenty minutes, 12 GB)
	@$(BIN)/python -m pytest tests/scale --scale

test-unit: setup ## the tests that start no server
	@$(BIN)/python -m pytest tests/unit tests/boundaries tests/api tests/dags tests/plugins

bench: setup .venv-bench/.installed ## measure it beside its peers; appends to benchmarks/README.md (PHOTOS=folder, ONLY=parts, half an hour)
	@$(BIN)/python -m benchmarks.run --record $(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(ONLY),--only $(ONLY)) $(BENCH_FLAGS)

bench-gate: setup ## what the gate says of models that are equal, better and worse, and how surely (PHOTOS=folder of labelled photos)
	@$(BIN)/python -m benchmarks.gate $(if $(PHOTOS),"$(PHOTOS)")

.venv-bench/.installed: $(INSTALLED) benchmarks/requirements.txt
	@echo "Installing the peers into .venv-bench (about 4 GB)"
	@test -x .venv-bench/bin/python || $(BIN)/python -m venv .venv-bench
	@$(BIN)/uv pip sync --quiet --python .venv-bench/bin/python --require-hashes benchmarks/requirements.txt
	@touch $@

check: setup ## lint, format, types, imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fmt: setup ## mend what can be mended by itself
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

dags: setup ## parse every Dag where TensorFlow is not installed; print time and heavy modules
	@$(BIN)/python scripts/parse_dags.py

lock: setup ## compile requirements.in to requirements.txt, with hashes and without addresses
	@$(BIN)/uv pip compile requirements-bootstrap.in --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet --upgrade --output-file requirements-bootstrap.txt
	@$(BIN)/uv pip compile requirements.in --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-package nightlabel --quiet --upgrade --output-file requirements.txt

bench-lock: setup ## compile benchmarks/requirements.in likewise
	@$(BIN)/uv pip compile benchmarks/requirements.in --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet --upgrade --output-file benchmarks/requirements.txt

schema: setup ## write sql/schema.sql from the migrations
	@$(BIN)/python -m local_stack.schema sql/schema.sql

sql-docs: setup ## write docs/sql.md, the dbt sources and the example answers of sql/queries from the schema
	@$(BIN)/python -m scripts.make_sql_docs

clean: ## stop the stack, remove what make installed and what the stack keeps
	@test ! -x $(BIN)/python || test ! -d .state || $(BIN)/python -m local_stack down
	@rm -rf $(VENV) .venv-dags .venv-bench .state build dist
