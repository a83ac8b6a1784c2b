# Every target is idempotent; what is installed is installed once and again when pyproject.toml changes.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help venv run test lint campaign format clean

help:
	@echo "make run | test | lint | campaign | venv | format | clean"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group $*
	@touch $@

venv: $(VENV)/.installed

run: $(VENV)/.installed
	@exec $(BIN)/python server.py --demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy server.py

# Downloads from origins that fail: make campaign N=10000 SEED=1 [SABOTAGE=guard]
N ?= 10000
SEED ?= 1
campaign: $(VENV)/.installed-test
	$(BIN)/python tests/campaign --n $(N) --seed $(SEED) $(if $(SABOTAGE),--sabotage $(SABOTAGE))

format: $(VENV)/.installed-lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
