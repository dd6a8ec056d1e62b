# Needs make and Python 3.11 or newer. Everything goes into $(VENV); nothing else is touched.
#
#   make demo        fetch a small trained detector, ship it, detect, open its report
#   make test        lint, types and tests, as CI runs them
#
# Another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

BIN := $(VENV)/bin
DEMO := $(VENV)/.demo-installed
DEV := $(VENV)/.dev-installed

# OpenCV 5 dropped the Darknet importer that the demo takes a second opinion from.
OPENCV := opencv-python-headless>=4.10,<5

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-gpu lint docs clean

help:
	@sed -n 's/^#   //p' Makefile
	@echo "make test-slow   the tests that take minutes"
	@echo "make test-gpu    the tests that need TensorRT and a GPU"
	@echo "make lint        ruff and mypy only"
	@echo "make docs        write the generated parts of docs/ again"
	@echo "make clean       remove $(VENV), caches and the demo's files"

demo: $(DEMO)
	$(BIN)/boxwright demo -o demo/

test: lint
	$(BIN)/python -m pytest -q -m "not slow" $(PYTEST_ARGS)

test-slow: $(DEV)
	$(BIN)/python -m pytest -q -m slow $(PYTEST_ARGS)

test-gpu: $(DEV)
	$(BIN)/python -m pytest -q tests/gpu $(PYTEST_ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DEV)
	$(BIN)/python tools/make_cli_reference.py
	$(BIN)/python tools/make_install_reference.py
	$(BIN)/python tools/make_mxnet_reference.py
	$(BIN)/python tools/make_targets_reference.py

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written when its install has succeeded, so a broken one is tried again.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: Boxwright needs Python 3.11 or newer, and '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>/dev/null || echo not there)." \
	    "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; \
	  rm -rf $(VENV); exit 1; }

# The report extra draws the charts of the demo's report.
$(DEMO): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[report]' '$(OPENCV)'
	@touch $@

$(DEV): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(DEMO)
