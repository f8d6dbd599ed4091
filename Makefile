# People and CI run the same commands. All of them make .venv by themselves when it is missing.
PYTHON ?= python3
VENV := .venv/bin
DETACH ?=

.PHONY: help setup demo test check bench format clean

help:
	@echo "make demo    from a log to live recommendations, in at most 10 minutes (DETACH=1: stop at the end)"
	@echo "make test    everything that CI runs: format, lint, types, import rules, tests"
	@echo "make check   the same without the tests"
	@echo "make bench   the benchmarks behind the figures in the README (an hour)"
	@echo "make setup   only make .venv"
	@echo "make format  mend format and lint where that is mechanical"

setup:
	@$(PYTHON) scripts/setup.py train dev

demo:
	@$(PYTHON) scripts/setup.py train
	@DETACH=$(DETACH) $(VENV)/python scripts/demo.py

check: setup
	$(VENV)/ruff format --check --quiet .
	$(VENV)/ruff check --quiet .
	$(VENV)/mypy
	$(VENV)/lint-imports

test: check
	OMP_NUM_THREADS=1 $(VENV)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

bench: setup
	$(VENV)/python -m benchmarks.quality --set ml1m --protocol leave-last-out --resume
	$(VENV)/python benchmarks/serving.py

format: setup
	$(VENV)/ruff format --quiet .
	$(VENV)/ruff check --fix --quiet .

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
