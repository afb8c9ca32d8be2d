# `make demo` and `make test` do everything on a fresh machine with Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: docs demo test slow check lint types imports wheel bench clean

demo: $(READY)
	$(BIN)/ferbench reproduce demo --results results/demo

# What measures time runs alone, after all others: on a busy core the same work takes a fifth more.
test: $(READY)
	$(BIN)/python -m pytest -q -n auto -m "not slow and not timing"
	$(BIN)/python -m pytest -q -m "not slow and timing"

slow: $(READY)
	$(BIN)/python -m pytest -q -n auto -m "slow and not timing"
	$(BIN)/python -m pytest -q -m "slow and timing"

check: lint types imports wheel

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

# The wheel, installed outside the checkout without the checkout's own copy, loads every protocol and trains a step.
wheel: $(READY)
	$(BIN)/python tests/wheel.py

# A site that needs no network to be read: build/site/index.html.
docs: $(READY)
	$(BIN)/mkdocs build --strict

bench: $(READY)
	$(BIN)/python -m pytest -q bench --benchmark-columns=median,iqr,rounds

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ferbench needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "no virtual environments here: install your system's python3-venv, then make again"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info
