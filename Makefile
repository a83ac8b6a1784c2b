# Every target is idempotent; what is installed is installed once and again when pyproject.toml changes.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help venv run test lint bench profile soak campaign guards mutants judges format clean

help:
	@echo "make run | test | lint | bench | profile | soak | campaign | guards | mutants | judges | venv | format | clean"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[server]'
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
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive server.py tarstream examples benchmarks

# What the gateway costs, next to its peers: make bench [QUICK=1] [ARGS='--case small-tar'], see
# docs/performance.md. ARGS=--document replaces the figures in there.
bench: $(VENV)/.installed-bench .venv-peers/.installed benchmarks/peers/node_modules/.installed
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick) --json build/bench/figures.json \
		--plots build/bench $(ARGS)

# Where the time goes, under cProfile: make profile [ARGS='--quick | --rounds N | --document']
profile: $(VENV)/.installed
	$(BIN)/python -m benchmarks.profile $(ARGS)

# Does memory stay flat? make soak [ARGS='--archives 100000']
soak: $(VENV)/.installed
	$(BIN)/python -m benchmarks.soak $(ARGS)

.venv-peers/.installed: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --requirement $<
	@touch $@

benchmarks/peers/node_modules/.installed: benchmarks/peers/package-lock.json
	npm ci --prefix benchmarks/peers --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# Downloads from origins that fail: make campaign N=10000 SEED=1, or SABOTAGE=guard [N=4]
N ?= $(if $(SABOTAGE),,10000)
SEED ?= 1
campaign: $(VENV)/.installed-test
	$(BIN)/python tests/campaign $(if $(N),--n $(N)) --seed $(SEED) $(if $(SABOTAGE),--sabotage $(SABOTAGE))

# Does a test fail without each guard? make guards [ARGS='--jobs 4 stall-timeout']
guards: $(VENV)/.installed-test
	$(BIN)/python tests/guards $(ARGS)

# Do the tests of the pure modules notice when one thing in these changes? See docs/mutants.md.
mutants: $(VENV)/.installed-mutants
	$(BIN)/python tests/mutants.py

# httplint and REDbot, varnishtest, slowhttptest: make judges [ARGS='--judge lint']
judges: $(VENV)/.installed-judges
	$(BIN)/python tests/judges $(ARGS)

format: $(VENV)/.installed-lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .venv-peers benchmarks/peers/node_modules build mutants *.egg-info .mypy_cache .pytest_cache .ruff_cache
