# `make` alone lists the targets. Everything runs in .venv, which `make setup` builds in the checkout.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint check golden baseline bench bench-compiler accuracy fidelity mutants docs

BIN := .venv/bin
STAMP := .venv/.stamp
# A Python that can make .venv: 3.11 or 3.12, with venv and pip's installer. It is run, not only found: a
# version manager's shim may be on PATH for a version that is not installed.
FITS := import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
# A .venv to keep and bring up to date.
KEEP := import pip, sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))

# What `make accuracy` prints of the standard's cases, of generated networks and of the lint.
JUDGED := tests/runtime/test_node_cases.py tests/runtime/test_backend.py tests/acceptance/test_networks.py \
    tests/acceptance/test_lint.py

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## make .venv (Python 3.11 or 3.12) with ommatid, editable, and its tools

$(STAMP): pyproject.toml
	@if ! $(BIN)/python -c '$(KEEP)' 2>/dev/null; then \
	    found=; \
	    while IFS= read -r each; do \
	        if "$$each" -c '$(FITS)' >/dev/null 2>&1; then found=$$each; break; fi; \
	    done < <(type -ap python3.12 python3.11 python3); \
	    if [ -z "$$found" ]; then \
	        echo "error: no Python 3.11 or 3.12 with venv and ensurepip runs from PATH" >&2; \
	        echo "hint: install python3.12 (on Debian and Ubuntu also python3.12-venv), then 'make setup'" >&2; \
	        exit 1; \
	    fi; \
	    echo "making .venv with $$found"; \
	    "$$found" -m venv --clear .venv; \
	fi
	$(BIN)/python -m pip install -q -e ".[demo,report,sweep,dev]"
	@touch $@

demo: $(STAMP) ## run the demo
	$(BIN)/ommatid demo

test: $(STAMP) ## run all tests
	$(BIN)/python -m tests.loops
	$(BIN)/python -m pytest -n 2 --durations=10

lint: $(STAMP) ## ruff, mypy, and who may import whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint ## lint, and the tests that are not long: before every commit
	$(BIN)/python -m pytest -n 2 -m "not long"

golden: $(STAMP) ## rewrite the golden files of the tests: read the difference before you commit it
	GOLDEN=1 $(BIN)/python -m pytest

baseline: $(STAMP) ## write tests/baseline.toml anew: read the difference before you commit it
	$(BIN)/python -m pytest tests/acceptance/test_baseline.py --ommatid-update

bench: $(STAMP) ## measure, beside onnxruntime on the same cores
	$(BIN)/python -m benchmarks.run

bench-compiler: $(STAMP) ## cycles of compiled networks beside the two yardsticks; how low buffers are placed
	$(BIN)/python -m benchmarks.compiler
	$(BIN)/python -m benchmarks.placement

accuracy: $(STAMP) ## measure what 8 bits cost, and how many of ONNX's cases and of twelve networks are right: half an hour
	$(BIN)/python -m benchmarks.accuracy
	$(BIN)/python -m benchmarks.precision
	$(BIN)/python examples/digits/measure.py
	$(BIN)/python -m pytest -n 2 -q -rP $(JUDGED)

fidelity: $(STAMP) ## compare the fast executors with the reference machine, and write docs/fidelity.md
	$(BIN)/python -m benchmarks.fidelity

mutants: $(STAMP) ## put seeded faults into the timing and functional code, count those that tests catch: about an hour
	$(BIN)/python -m benchmarks.mutants

docs: $(STAMP) ## write the generated tables of docs/ anew
	$(BIN)/python -m ommatid.isa.manual docs
	$(BIN)/python -m ommatid.compiler.operators_doc docs
	$(BIN)/python -m ommatid.simulator.counters docs
