# `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install quickstart test lint types unit docs gpu clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

# The stamp is newer than pyproject.toml once an install has completed: a broken one is repeated.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=python3.x" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

install: $(VENV)/installed  ## create .venv with everything installed

quickstart: install  ## measure, search, derive, retrain and time on bundled images; results in runs/quickstart/
	$(BIN)/proxyless-nas quickstart --out runs/quickstart

test: lint  ## lint, types, documents and tests
	$(MAKE) --jobs=2 types docs  # one process each
	$(MAKE) unit

lint: install  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## mypy
	$(BIN)/mypy

unit: install  ## the tests alone
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal  # one thread each: two processes share two cores

docs: install  ## build the documents into site/; a broken link or a public name without a docstring fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# No part needs another one's result: -k of make runs the rest where one fails.
gpu: gputests gputable gpuspeed gpuaccuracy  ## on a machine with a CUDA GPU: its tests, then its figures, in runs/gpu_figures/

.PHONY: gputests gputable gpuspeed gpuaccuracy
gputests: install
	$(BIN)/python -m pytest -m gpu -rs

runs/gpu_figures:
	mkdir -p $@

gputable: install | runs/gpu_figures
	$(BIN)/proxyless-nas measure latency/imagenet_gpu --out runs/gpu_figures/imagenet_gpu.yaml --verify 40

gpuspeed: install | runs/gpu_figures
	$(BIN)/python benchmarks/search_speed.py --only gpu --json runs/gpu_figures/search_speed.json

gpuaccuracy: install | runs/gpu_figures
	$(BIN)/python benchmarks/latency_accuracy.py | tee runs/gpu_figures/latency_accuracy.txt

clean:  ## remove .venv, caches, the built documents and the quick start's results
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info site runs/quickstart
