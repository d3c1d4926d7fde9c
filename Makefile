# Apollo networking. `make up` and `make test` do all the set-up they need, once, into a cache (see scripts/python).
#
#   make up                       the local stack on this machine's embedded cloud; SET="slaves.count=5" changes a setting
#   make down                     removes every trace of it
#   make preview STACK=dev        what a stack would create, without an account
#   make status | outputs         the hosts, the exports
#   make map                      draws the local stack: apollo-local.svg and apollo-local.html
#   make test-fast                the tests that need neither machines nor the engine, for the minute after an edit
#   make test | lint | bench      all checks, the linters, the measurements
#   make mutants                  whether the tests notice a changed program; ARGS="--since main" what a branch changes

SHELL := /bin/bash
STACK ?= local
SET ?=
ARGS ?=
PY := scripts/python
SETS := $(foreach pair,$(SET),--set '$(pair)')

.PHONY: map up down preview refresh status outputs test test-fast mutants lint format bench

up:
	@./apollo up --stack $(STACK) $(SETS) $(ARGS)

down:
	@./apollo down --stack $(STACK) $(ARGS)

preview:
	@./apollo preview --stack $(STACK) $(SETS) $(ARGS)

refresh status outputs:
	@./apollo $@ --stack $(STACK) $(ARGS)

map:
	@./apollo ops --stack $(STACK) map $(ARGS)

test:
	@$(PY) -m localcloud.machines.prepare --checks || [ -z "$$CI" ]
	@$(PY) -m pytest -n 2 --no-loadscope-reorder --durations 25 --durations-min 5 $(ARGS)

test-fast:
	@$(PY) -m pytest -n 3 --no-loadscope-reorder -q -m "not engine and not machines" $(ARGS)

mutants:
	@$(PY) -m scripts.mutants $(ARGS)

lint:
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) scripts/lint_shell.py
	@$(PY) -m pyright --pythonpath "$$($(PY) -c "import sys; print(sys.executable)")"

format:
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

bench:
	@$(PY) -m bench $(ARGS)
