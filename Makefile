# Two commands for a newcomer: `make run` and `make test`. The environment lives in .venv.
PYTHON ?= python3
MODEL ?=
PORT ?= 8000
BIN := .venv/bin
READY := .venv/ready

.PHONY: run test check bench example lock clean help
help:            ## this list
	@grep -E '^[a-z]+: .*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 12

$(READY): requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.13 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $(READY)

run: $(READY)    ## serve the model locally, on http://localhost:8000 (MODEL=folder, PORT=8000)
	$(BIN)/python -m tools serve $(MODEL) --port $(PORT)

test: $(READY)   ## the tests that need nothing but Python
	$(BIN)/python -m pytest tests/unit

check: $(READY)  ## lint, types, generated files, slow tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m slow

bench: $(READY)  ## measure the product beside its peers; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks --markdown benchmarks/RESULTS.md --readme README.md

example: $(READY) ## train and pack the shipped model again
	$(BIN)/python examples/diabetes/train.py build/diabetes
	$(BIN)/python -m tools pack build/diabetes/model.onnx --reference build/diabetes/reference.csv \
	  --contract examples/diabetes/contract.toml --metrics build/diabetes/metrics.json \
	  --name diabetes --version 1.0.0 --owner "Answerable's maintainers" \
	  --why "the first version: boosted trees on the diabetes study"

lock: $(READY)   ## compile requirements/*.in to hashed *.txt
	$(BIN)/python -m pip install --quiet uv
	cd requirements && for name in dev function; do \
	  ../$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate -c dev.txt $$name.in -o $$name.txt; done

clean:           ## remove what make made
	rm -rf .venv build cdk.out .pytest_cache .mypy_cache .ruff_cache .hypothesis
