# Lightning Hive. `make help` lists the targets.
# Everything runs from two private environments made here: .venv (plugins, advisor kit, tools) and
# .venv-mint (the mint of the development network). Nothing else on the machine is touched.

PYTHON ?= python3.11
ifeq ($(shell command -v $(PYTHON) 2>/dev/null),)
PYTHON := python3
endif
VENV := .venv
MINT := .venv-mint
BIN := $(VENV)/bin
PY := $(BIN)/python
# The devnet starts plugins through their shebang: `python3` must be the environment's.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export HIVE_MINT_VENV := $(CURDIR)/$(MINT)
# Nodes, relays and plugins are started by the hundred. As on an operator's machine, whatever the environment
# says, compiled modules are kept for the next start; here outside of the source tree.
KEPT := env -u PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX=$(CURDIR)/build/compiled
WORKERS ?= 4
# In this order: at the end, short files fill what the long ones leave of the workers.
SUITES := tests/e2e tests/integration tests/compat tests/contract tests/architecture tests/fuzz tests/unit

.DEFAULT_GOAL := help
.PHONY: help setup setup-mints demo test collect check lint types bench fuzz slow devnet machines reference clean distclean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(VENV)/.ready: requirements-dev.txt cl-hive-comms/requirements.txt cl-hive-archon/requirements.txt cl-hive/requirements.txt pyproject.toml shared/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11")'
	@echo "== setting up $(VENV): plugins, advisor kit, tools (about half a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . -e shared
	@touch $@

$(MINT)/.ready: requirements-mint.txt
	@echo "== setting up $(MINT): the mint of the development network (about a minute)"
	@$(PYTHON) -m venv $(MINT)
	@$(MINT)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-mint.txt
	@touch $@

$(MINT)-0.16/.ready: requirements-mint-0.16.txt
	@echo "== setting up $(MINT)-0.16: an older mint, for the tests that compare releases (about a minute)"
	@$(PYTHON) -m venv $(MINT)-0.16
	@$(MINT)-0.16/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-mint-0.16.txt
	@touch $@

# It pins a version of a Lightning backend that is not to be had; nothing of it is used here, so the pin is ignored.
$(MINT)-0.21/.ready: requirements-mint.txt
	@echo "== setting up $(MINT)-0.21: a newer mint, for the tests that compare releases (about a minute)"
	@$(PYTHON) -m venv $(MINT)-0.21
	@$(MINT)-0.21/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-mint.txt breez-sdk-spark==0.27.2
	@$(MINT)-0.21/bin/python -m pip install --quiet --disable-pip-version-check --no-deps cashu==0.21.0
	@touch $@

setup: $(VENV)/.ready $(MINT)/.ready ## make both environments

setup-mints: setup $(MINT)-0.16/.ready $(MINT)-0.21/.ready ## also an older and a newer release of the mint; tests that want them are skipped without

demo: setup ## the story from end to end on the development network
	@$(KEPT) $(PY) -m hive_devnet.demo

test: setup ## every test; ends with pytest's summary line
	@echo "== tests on node kind: $${HIVE_NODE:-$$(command -v lightningd >/dev/null && echo lightningd || echo embedded)}"
	@$(KEPT) $(PY) -m pytest $(SUITES) -n $(WORKERS) --dist loadfile --no-loadscope-reorder -q

collect: setup ## compile the tests once, where every worker of `make test` would
	@$(KEPT) $(PY) -m pytest $(SUITES) --collect-only -q > /dev/null

lint: setup ## ruff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## mypy --strict over the shipped code
	@$(BIN)/mypy shared/hive_shared shared/hive_advisor shared/hive_devnet cl-hive-comms/cl_hive_comms cl-hive-archon/cl_hive_archon cl-hive/cl_hive

check: lint types test ## what CI runs

bench: setup ## figures beside a yardstick measured in the same run; BENCH=smoke for a short one
	@$(KEPT) $(PY) tests/bench/run.py $(BENCH)

fuzz: setup ## long fuzzing of every decoder and property; FUZZ_EXAMPLES=200 for a short one
	@HIVE_FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),20000) $(KEPT) $(PY) -m pytest tests/fuzz tests/unit -m hypothesis -q --timeout 0

slow: setup ## checks that take a minute each: the guide from its first line, the 100,001st receipt
	@$(KEPT) $(PY) -m pytest tests/slow -n 0 -q

devnet: setup ## leave a development network running until Ctrl-C
	@$(KEPT) $(PY) -m hive_devnet.serve

machines: setup ## redraw docs/machines from the transition tables
	@$(PY) docs/render_machines.py

reference: setup ## rewrite docs/options.md and docs/reference from the code
	@$(PY) docs/render_options.py
	@$(PY) docs/render_reference.py

clean: ## remove caches and the development network's files
	@rm -rf .devnet .pytest_cache .mypy_cache .ruff_cache .hypothesis build
	@find . -name __pycache__ -type d -prune -not -path './.venv*' -exec rm -rf {} +

distclean: clean ## also remove the environments
	@rm -rf $(VENV) $(MINT) $(MINT)-0.16 $(MINT)-0.21
