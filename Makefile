# make demo    runs the quickstart notebook on an embedded cluster of two nodes
# make test    installs what the tests need and passes them all
# make lab     boots two virtual machines with systemd and tests on them (as root, on Debian)
# make lab-up  boots them and waits, to try things in them; make lab-bench times the launchers
# make faults  kills, stops and cuts off a cluster under load (FAULTS_OPTIONS="--seed 1 --kills 20")
# make bench   measures speed and memory on a cluster of its own (BENCH_OPTIONS="--only one")
# make lint    formats, lints and checks types and imports, changing nothing
# make clean   removes what the others made

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := build/demo
BEGIN  := $(shell date +%s)

# What the lab builds and boots its machines with.
LAB_TOOLS := qemu-system-x86 qemu-utils mmdebstrap e2fsprogs xz-utils openssh-client

# Each suite has so many seconds, all together half an hour at most; then it is interrupted, so that
# it ends what it started.
suite   = timeout --foreground --signal=INT --kill-after=60 $(1) $(BIN)/python -m pytest

.PHONY: demo test lab lab-images lab-up lab-bench lab-tools faults bench bench-sweeps lint format clean

demo: $(VENV)/.demo
	$(BIN)/python notebooks/execute.py notebooks/quickstart.ipynb --output-dir $(DEMO) --since $(BEGIN)

test: $(VENV)/.test
	$(call suite,150) tests/unit --numprocesses=2 --dist=worksteal $(PYTEST_OPTIONS)
	$(call suite,510) tests/integration --numprocesses=2 --dist=loadfile $(PYTEST_OPTIONS)
	$(call suite,70) tests/faults --numprocesses=2 $(PYTEST_OPTIONS)
	$(call suite,90) tests/notebook --numprocesses=2 --dist=loadfile $(PYTEST_OPTIONS)

# Where an ordinary account does not look for programs, mke2fs is.
lab lab-images lab-up lab-bench: export PATH := $(PATH):/usr/sbin:/sbin

lab: lab-images
	$(call suite,970) tests/lab $(PYTEST_OPTIONS)

# Builds what the lab boots, unless that is in its cache.
lab-images: $(VENV)/.test lab-tools
	$(BIN)/python -m tests.lab build

lab-up: $(VENV)/.test lab-tools
	$(BIN)/python -m tests.lab up

lab-bench: $(VENV)/.test lab-tools
	$(BIN)/python tests/benchmarks/launchers.py

faults: $(VENV)/.test
	$(BIN)/python tests/faults $(FAULTS_OPTIONS)

bench: $(VENV)/.test
	$(BIN)/python -m tests.benchmarks $(BENCH_OPTIONS)

bench-sweeps: $(VENV)/.test
	$(BIN)/python tests/benchmarks/sweeps.py

lint: $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "HakuRiver needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1); name another with PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Where they cannot be installed, the lab says what is missing.
lab-tools:
	@[ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || dpkg -s $(LAB_TOOLS) >/dev/null 2>&1 || \
	  { apt-get -qq update && apt-get -qq install -y --no-install-recommends $(LAB_TOOLS); }

# Each mark says that the extra of its name is installed as pyproject.toml has it now.
$(VENV)/.%: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[$*]'
	@touch $@
