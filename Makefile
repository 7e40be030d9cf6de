# Two commands do all the set-up: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-out
ARGS ?=

.PHONY: help demo test lint unit venv clean bench doctor dist

help:
	@echo "make demo    one translated conversation on this machine (ENGINE=echo: without models, says back what it hears)"
	@echo "make test    everything: lint, types, layers, tests"
	@echo "make lint    ruff, mypy and import-linter only"
	@echo "make unit    the tests that need no Asterisk"
	@echo "make bench   the load benchmarks (ARGS=media)"
	@echo "make dist    a release in dist/: wheel, locked packages, SBOM, checksums"
	@echo "make clean   remove what the above made here"

# The stamp is redone when one of these changes, so a second run is quick.
venv: $(VENV)/.stamp
$(VENV)/.stamp: setup.cfg setup.py kallglot_ari/media/tick.c $(wildcard kallglot_ari/media/*.h) tools/prepare
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh tools/prepare

# The offline engine needs models, 1.3 GB, which are fetched once (docs/interpreter.md).
demo: ENGINE ?= offline
demo: venv
	@$(BIN)/kallglot-ari demo --out $(OUT) --engine $(ENGINE) $(ARGS)

lint: venv
	$(BIN)/ruff check kallglot_ari tests docs
	$(BIN)/ruff format --check kallglot_ari tests docs
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: venv
	$(BIN)/pytest -m "not asterisk and not phones and not docker and not models" $(ARGS)

test: lint
	$(BIN)/pytest --cov --cov-report=term $(ARGS)

bench: venv
	$(BIN)/kallglot-ari bench $(ARGS)

doctor: venv
	$(BIN)/kallglot-ari doctor

dist:
	@PYTHON="$(PYTHON)" sh tools/dist

clean:
	rm -rf $(VENV) demo-out bench-out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
