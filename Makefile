# `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install quickstart test lint types unit clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

# The stamp is newer than setup.py once an install has completed: a broken one is repeated.
$(VENV)/installed: setup.py
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=python3.x" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

install: $(VENV)/installed  ## create .venv with everything installed

quickstart: install  ## measure, search, derive, retrain and time on bundled images; results in runs/quickstart/
	$(BIN)/python scripts/quickstart.py --out runs/quickstart

test: lint types unit  ## lint, types and tests

lint: install  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## mypy
	$(BIN)/mypy
	$(BIN)/mypy benchmarks/*.py scripts/*.py

unit: install  ## the tests alone
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal  # one thread each: two processes share two cores

clean:  ## remove .venv, caches and the quick start's results
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info runs/quickstart
