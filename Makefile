# make demo: the whole path on a synthetic corpus.  make test: the suite.  Both install what they need into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-fast test-slurm check bench tables clean

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(f"expected Python 3.11 or newer, got {sys.version.split()[0]}; set PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing emorec into $(VENV) (some minutes the first time)"
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing emorec and its development tools into $(VENV) (some minutes the first time)"
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/emorec train -m experiment=benchmark_demo
	$(BIN)/emorec report benchmark=demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not faults"

test-slurm: $(VENV)/.installed-dev
	$(BIN)/python -m tests.slurm

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	$(BIN)/python -m tests.benchmarks

tables: $(VENV)/.installed
	$(BIN)/python -m tests.readme_tables

clean:
	rm -rf $(VENV) build dist
