# Each target makes its own virtual environment from constraints.txt. Needs Python 3.11 or later and nothing else.
PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= demo
BIN = $(VENV)/bin
SOURCES = pyproject.toml constraints.txt $(shell find flows functions -type f ! -name '*.py[co]' ! -name '*.nb[ci]')

.PHONY: help demo test check fast develop facility accuracy clean

help:
	@echo "make demo      simulate a scan, run the pipeline on it, compare with the truth"
	@echo "make test      check style and types, run all tests"
	@echo "make fast      the tests that take a minute"
	@echo "make develop   editable install in $(VENV)"
	@echo "make facility  a facility on this machine: Globus services, Compute agent, collections (needs RabbitMQ)"
	@echo "make accuracy  write docs/reference/accuracy.md anew"

demo: $(VENV)/.demo
	$(BIN)/tomopipe demo --output $(OUTPUT)

test: $(VENV)/.test check
	$(BIN)/python -m pytest

fast: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow"

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p tomopipe.flows -p tomopipe.functions

accuracy: $(VENV)/.test
	$(BIN)/python benchmarks/accuracy.py

facility: $(VENV)/.test
	$(BIN)/python tests/facility

develop: $(VENV)/.made
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[test,docs]'

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit("tomopipe needs Python 3.11 or later, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python has no venv module; install it first: apt install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# setuptools keeps files that are gone in build/, so that goes first.
$(VENV)/.demo: $(VENV)/.made $(SOURCES)
	rm -rf build
	$(BIN)/python -m pip install --quiet --constraint constraints.txt .
	touch $@

$(VENV)/.test: $(VENV)/.made $(SOURCES)
	rm -rf build
	$(BIN)/python -m pip install --quiet --constraint constraints.txt '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info demo .pytest_cache .mypy_cache .ruff_cache
