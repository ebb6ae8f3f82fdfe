# `make demo` and `make test` set everything up on a machine with Python 3.11+ and a C++ compiler.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# An editable install in strict mode (a tree of links) is the one that type checkers can follow; it has to be
# made again when a module comes or goes, which a touched folder tells.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=strict
FOLDERS = api schemas encoders index pipeline jobs
CHECKED = $(FOLDERS) tests benchmarks setup.py
PACKAGING = setup.py pyproject.toml $(FOLDERS)

.PHONY: demo test test-slow lint types unit clean

demo: $(VENV)/demo.stamp
	$(BIN)/gifdex demo --folder demo

test: lint types unit

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)

types: $(VENV)/dev.stamp
	$(BIN)/mypy

unit: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m slow --timeout 3600

clean:
	rm -rf $(VENV) build demo *.egg-info

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gifdex needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(BIN)/python $(PACKAGING)
	$(INSTALL) -e '.[demo]'
	touch $@

$(VENV)/dev.stamp: $(BIN)/python $(PACKAGING)
	$(INSTALL) -e '.[dev]'
	touch $@
