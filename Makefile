# `make demo` and `make test` set everything up on a machine with Python 3.11+ and a C++ compiler.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# An editable install in strict mode (a tree of links) is the one that type checkers can follow.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=strict
S3 = $(HOME)/.cache/gifdex-tests/versitygw-v1.8.0
# A file's tests run in one process, so its fixtures run once; in the order of the folders, where long files come first.
PARALLEL = -n 2 --dist loadfile --no-loadscope-reorder
FOLDERS = api schemas encoders index pipeline jobs
CHECKED = $(FOLDERS) tests benchmarks examples setup.py
# The installation depends on these and on the list of modules, not on their contents.
PACKAGING = setup.py pyproject.toml index/kernels.c $(VENV)/modules
# The development install holds all that the demo needs.
DEMO = $(if $(wildcard $(VENV)/dev.stamp),$(VENV)/dev.stamp,$(VENV)/demo.stamp)

.PHONY: demo test quick test-slow s3-server lint format types unit clean FORCE

demo: $(DEMO)
	$(BIN)/gifdex demo --folder demo

test: lint types unit

# For the daily loop, in under 90 seconds: no test imports TensorFlow or Beam.
quick: lint types
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not slow" --quick -r fE

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

types: $(VENV)/dev.stamp
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks examples setup.py

unit: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-slow: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m slow --timeout 3600

# A real S3 server for tests, from Go's module proxy: two minutes, once.
s3-server: $(S3)/versitygw

$(S3)/versitygw:
	GOBIN=$(S3) go install github.com/versity/versitygw/cmd/versitygw@v1.8.0

clean:
	rm -rf $(VENV) build demo *.egg-info index/*.so

$(VENV)/venv.stamp:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gifdex needs Python 3.11 or newer")'
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

# Rewritten only when a module comes or goes.
$(VENV)/modules: $(VENV)/venv.stamp FORCE
	@find $(FOLDERS) -name '*.py' | LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(VENV)/demo.stamp: $(PACKAGING)
	$(INSTALL) -e '.[demo]'
	touch $@

$(VENV)/dev.stamp: $(PACKAGING)
	$(INSTALL) -e '.[dev]'
	touch $@
