# Two commands do everything on a fresh machine: `make demo` and `make test`.
# `make quick` is the loop while you write: minutes, and no server, Ray or browser.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo quick test check serve bench clean system docs

demo: $(VENV)/.worker
	$(BIN)/secateur demo

serve: $(VENV)/.worker
	$(BIN)/secateur serve

# Assertions that pytest has rewritten are kept as bytecode, which takes seconds off every collection.
quick test: export PYTHONDONTWRITEBYTECODE =

quick: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m quick --durations-min=3

test: $(VENV)/.dev system
	$(BIN)/python -m pytest -n 2

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m api.docs --check

docs: $(VENV)/.dev
	$(BIN)/python -m api.docs

bench: $(VENV)/.dev
	$(BIN)/python bench/prune_memory.py

clean:
	rm -rf $(VENV) .secateur build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# torch goes first: pinned, it is the CPU build's file where one is at hand, and nothing later moves it.
$(VENV)/.worker: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e '.[worker]'
	touch $@

$(VENV)/.dev: $(VENV)/.worker
	$(PIP) -e '.[dev]'
	touch $@

# What tests need from the system. Where it cannot be installed, those tests skip and name the package.
system:
	@test -x /usr/lib/postgresql/15/bin/initdb \
	  || { apt-get update -qq && apt-get install -qq -y --no-install-recommends postgresql-15; } \
	  || echo "PostgreSQL 15 is not here and could not be installed (Debian package postgresql-15)"
	@test -x /usr/bin/chromium \
	  || { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; } \
	  || echo "Chromium is not here and could not be installed (Debian package chromium)"
