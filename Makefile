# `make run` shows what this program does, `make test` proves it; each target prepares what it needs.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Never the scripts beside it: their first lines name the folder that .venv was made in, and checkouts move.
PYTHON_IN_VENV := .venv/bin/python
# Tests mostly wait or keep one core busy. A file's tests stay together, as they share what is dear to make.
TEST_PROCESSES ?= 2
BENCHES = $(sort $(patsubst tools/bench/%.py,%,$(shell grep -l "harness\.publish" tools/bench/*.py)))

# State made by these targets stays in the checkout; an installed service has its own.
export EDGEAGENT_STATE ?= $(CURDIR)/.state
# The text reaches the program as it was typed: make would read a `$` in it as a variable.
override PROMPT := $(value PROMPT)
export PROMPT

.PHONY: help run serve test test-long check bench clean venv-run venv-dev test-tools

help:
	@echo 'make run [PROMPT="…"]   the main job, once, on this machine (first time: about 5 minutes)'
	@echo 'make serve              the daemon and its page, on http://127.0.0.1:8477'
	@echo 'make test               the test suite, after setting itself up'
	@echo 'make test-long          the tests that take minutes each'
	@echo 'make check              lint, types, architecture, sizes'
	@echo 'make bench [BENCH=NAME] [QUICK=1]   the benches, one JSON document each'
	@echo 'make clean              remove .venv and caches; .state (models, memories) stays'

run: venv-run
	@$(PYTHON_IN_VENV) tools/main_job.py $${PROMPT:+--prompt "$$PROMPT"}

serve: venv-run
	@exec $(PYTHON_IN_VENV) -m edgeagent serve

test: venv-dev test-tools
	@$(PYTHON_IN_VENV) -m pytest -m 'not long' -n $(TEST_PROCESSES) --dist loadfile

test-long: venv-dev test-tools
	@$(PYTHON_IN_VENV) -m pytest -m long

check: venv-dev
	@$(PYTHON_IN_VENV) -m ruff check .
	@$(PYTHON_IN_VENV) -m ruff format --check .
	@$(PYTHON_IN_VENV) -m mypy
	@$(PYTHON_IN_VENV) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	@$(PYTHON_IN_VENV) tools/check_sizes.py

bench: venv-dev
	@set -e; for bench in $(or $(BENCH),$(BENCHES)); do \
		$(PYTHON_IN_VENV) "tools/bench/$$bench.py" --json $(if $(QUICK),--quick); \
	done

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find edgeagent tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

venv-run:
	@sh tools/setup_venv.sh broker

venv-dev:
	@sh tools/setup_venv.sh dev

test-tools:
	@sh tools/setup_tests.sh
