# Apollo networking. `make up` and `make test` do all the set-up they need, once, into a cache (see scripts/python).
#
#   make up           boots the local stack on this machine's embedded cloud; SET="slaves.count=5" changes a setting
#   make down         removes every trace of it
#   make preview      shows what a stack would create, without an account: make preview STACK=dev
#   make status       lists the hosts
#   make outputs      shows the stack's exports
#   make refresh      brings the state to what the cloud holds
#   make map          draws the local stack: apollo-local.svg and apollo-local.html
#   make test-fast    runs the tests that need neither machines nor the engine
#   make test         runs all tests but the long ones of virtual machines; ARGS="tests/plan -q" runs a part
#   make test-vm      runs all tests of hosts as virtual machines, which take most of an hour of a quiet machine
#   make lint         runs the linters
#   make format       formats the code
#   make bench        measures; ARGS="--only preview" measures one thing
#   make mutants      finds changes that no test notices; ARGS="--since main" in what a branch changed
#   make help         shows this list
#
# STACK=name chooses Pulumi.<name>.yaml, ARGS="…" passes options: make up ARGS=--help shows those of `up`.

SHELL := /bin/bash
STACK ?= local
SET ?=
ARGS ?=
PY := scripts/python
# Where it is set, each of the hundreds of programs that a run of tests starts compiles ours anew.
unexport PYTHONDONTWRITEBYTECODE
SETS := $(foreach pair,$(SET),--set '$(pair)')

.PHONY: help map up down preview refresh status outputs test test-fast test-vm mutants lint format bench

help:
	@sed -n 's/^#   //p' Makefile

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

# Beside other hosts virtual machines come to a standstill, so theirs come last.
test:
	@$(PY) -m localcloud.machines.prepare --checks || [ -z "$$CI" ]
	@$(PY) -m pytest -n 3 --no-loadscope-reorder --durations 25 --durations-min 5 $(ARGS)
	$(if $(ARGS),,@$(PY) -m pytest tests/vm/test_boot.py)

test-fast:
	@$(PY) -m pytest -n 3 --no-loadscope-reorder -q -m "not engine and not machines" $(ARGS)

test-vm:
	@$(PY) -m pytest tests/vm $(ARGS)

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
