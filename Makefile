# Two commands do everything on a fresh machine: `make demo` and `make test`.
# `make quick` is for every change while you write: it takes minutes, and needs no server, Ray or browser.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo quick test check serve bench clean system docs

demo: $(VENV)/.worker
	$(BIN)/secateur demo

serve: $(VENV)/.worker
	$(BIN)/secateur serve

# pytest keeps its rewritten assertions as bytecode, which makes every collection seconds faster.
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

# torch is installed first: constraints.txt pins its CPU build, and no later installation changes it.
$(VENV)/.worker: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e '.[worker]'
	touch $@

$(VENV)/.dev: $(VENV)/.worker
	$(PIP) -e '.[dev]'
	touch $@

# Tests need these programs. If they cannot be installed, the tests that need them skip and name the package.
system:
	@test -x /usr/lib/postgresql/15/bin/initdb \
	  || { apt-get update -qq && apt-get install -qq -y --no-install-recommends postgresql-15; } \
	  || echo "PostgreSQL 15 is missing and could not be installed (Debian package postgresql-15)"
	@test -x /usr/bin/chromium \
	  || { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; } \
	  || echo "Chromium is missing and could not be installed (Debian package chromium)"
	@command -v aarch64-linux-gnu-g++ qemu-aarch64 >/dev/null \
	  || { apt-get update -qq && apt-get install -qq -y --no-install-recommends g++-aarch64-linux-gnu qemu-user; } \
	  || echo "NEON kernels cannot be tested (Debian packages g++-aarch64-linux-gnu and qemu-user, 300 MB)"
