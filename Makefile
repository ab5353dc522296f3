# Everything a contributor needs: `make` lists the targets. Only Python (with venv) and make are required.

PYTHON ?= python3
PORT ?= 5000
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test lint format stress pythons bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/core.stamp ## Run the example app on http://127.0.0.1:5000/ (PORT=8000 moves it)
	@echo "The example app is at http://127.0.0.1:$(PORT)/ and its jobs at http://127.0.0.1:$(PORT)/delayq/"
	@echo "(open in debug mode, to this machine only). Stop it with Ctrl-C."
	$(BIN)/flask --app example_app run --debug --no-reload --host 127.0.0.1 --port $(PORT)

test: lint ## Check style and types, then run the tests (ARGS="-k wheel" narrows them)
	$(BIN)/python -m pytest $(ARGS)
	@echo "This was $$($(BIN)/python -V) alone: \`make pythons\` tries the others. Tests that were skipped for want"
	@echo "of a server are listed above: \`make .venv/servers.stamp\` installs those servers (some are compiled)."

lint: .venv/dev.stamp ## Check style and types only
	$(BIN)/ruff check --quiet --output-format concise .
	$(BIN)/ruff format --quiet --check --output-format concise .
	$(BIN)/mypy --no-error-summary
	$(BIN)/pyright --warnings
	$(BIN)/python tests/type_check/public_names.py

format: .venv/dev.stamp ## Format the code and apply safe fixes
	$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format --quiet .

stress: .venv/dev.stamp ## Run the long tests: load and chaos, some minutes
	$(BIN)/python -m pytest -m stress $(ARGS)

pythons: ## Run the tests on every Python of this machine, and as root on Debian's newest
	python3 .ci/contain.py python3 .ci/pythons.py --debian $(ARGS)

bench: .venv/bench.stamp ## Measure beside peers, 12 minutes (wants redis-server and wrk; ARGS="--only idle")
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove the virtual environment and every cache
	rm -rf .venv .venv-pythons dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: the environment is brought up to date only after pyproject.toml changed.
# `pip install --group` needs pip 25.1, newer than the one most Pythons bring.
.venv/core.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --upgrade "pip>=25.1"
	$(PIP) install --editable .
	@touch $@

.venv/dev.stamp: .venv/core.stamp
	$(PIP) install --group dev
	@touch $@

.venv/uwsgi.stamp: .venv/dev.stamp
	$(PIP) install --group uwsgi
	@touch $@

# The old uWSGI lies beside, for it would take the place of the new one.
.venv/servers.stamp: .venv/uwsgi.stamp
	$(PIP) install --group servers
	$(PIP) install --no-deps --upgrade --target .venv/old-uwsgi uwsgi==2.0.26
	@touch $@

.venv/bench.stamp: .venv/core.stamp
	$(PIP) install --group bench
	@touch $@
