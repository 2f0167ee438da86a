# Two commands for a newcomer: `make run` and `make test`. The environment lives in .venv.
PYTHON ?= python3
MODEL ?=
PORT ?= 8000
OUT ?= build/batch
EVENT ?=
NEW ?=
STAGE ?= dev
ARGS ?=
# the image's Python where it can be had, also from pyenv
BENCH_PYTHON ?= $(shell PYENV_VERSION=$$(pyenv latest 3.13 2>/dev/null) python3.13 -c 'import sys; print(sys.executable)' 2>/dev/null || echo $(PYTHON))
BIN := .venv/bin
READY := .venv/ready
CHOSEN = $(if $(MODEL),--model $(MODEL))
DEPLOY = $(BIN)/python -m answerable $@ $(STAGE) $(CHOSEN) $(ARGS)
PYTEST := $(BIN)/python -m pytest -n auto --dist loadgroup

FUZZ ?= wire contract event_source oip_json oip_binary invocations feedback jobs batches
SECONDS ?= 600
COUNT ?= 200
SEED ?=
MINUTES ?= 30
CLIENTS ?= 50

.PHONY: help run rehearse test coverage check frameworks fuzz mutants soak audit reference docs checkov e2e bench bench-refusals bench-image power example image
.PHONY: synth bootstrap deploy destroy smoke sam lock clean
help:            ## this list
	@grep -hE '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 14

# --no-deps: a lock is whole, and to resolve it again old pips look for what it does not have
$(READY): requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.13 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	@touch $(READY)

run: $(READY)    ## serve the model locally, on http://localhost:8000 (MODEL=name PORT=8000), or score a file (BATCH=file OUT=folder)
	$(BIN)/python -m answerable $(if $(BATCH),batch $(BATCH) -o $(OUT),serve --port $(PORT)) $(CHOSEN)

rehearse: $(READY) ## simulate a release (MODEL=name NEW=name ARGS="-c bake_minutes=15")
	$(BIN)/python -m answerable simulate-release $(if $(MODEL),--current $(MODEL)) $(if $(NEW),--candidate $(NEW)) $(ARGS)

test: $(READY)   ## the tests that need nothing but Python
	$(PYTEST) tests/unit tests/runtime tests/zoo

coverage: $(READY) ## the same tests, and the lines that they do not reach; no gate
	$(PYTEST) tests/unit tests/runtime tests/zoo --cov=handler --cov=answerable --cov=infra \
	  --cov-report=html:build/coverage --cov-report=term:skip-covered

check: $(READY)  ## lint, types, the synthesised stack, slow tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.docs --check reliability
	$(MAKE) docs checkov
	$(PYTEST) --dist loadfile tests/infra
	$(PYTEST) -m slow

fuzz: build/fuzz-env/ready ## look for inputs that break a promise (FUZZ="wire feedback" SECONDS=600); keeps a corpus
	for name in $(FUZZ); do \
	  build/fuzz-env/bin/python -m tests.fuzz $$name -max_total_time=$(SECONDS) && \
	  build/fuzz-env/bin/python -m tests.fuzz $$name --pack || exit 1; done

mutants: $(READY) ## change handler/ at random and see whether a unit test fails (COUNT=200 SEED=1)
	$(BIN)/python -m tests.mutants --count $(COUNT) $(if $(SEED),--seed $(SEED))

soak: $(READY)   ## 50 clients, with a release in the middle (MINUTES=30 CLIENTS=50)
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --clients $(CLIENTS)

audit: build/audit-env/ready ## ask whether a locked version is known to be vulnerable (the network is asked)
	for name in function text images extensions dev; do build/audit-env/bin/pip-audit --disable-pip --require-hashes \
	  -r requirements/$$name.txt || exit 1; done

frameworks: build/frameworks-env/ready ## pack, serve and compare models of XGBoost, LightGBM and CatBoost
	build/frameworks-env/bin/python -m pytest tests/frameworks

build/%-env/ready: requirements/%.txt
	$(PYTHON) -m venv build/$*-env
	build/$*-env/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

reference: $(READY) ## write the generated pages of docs/ (PAGE=reference takes seconds)
	$(BIN)/python -m tests.docs $(PAGE)

docs: build/docs-env/ready ## build the documentation site in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 build/docs-env/bin/mkdocs build --quiet --strict

checkov: $(READY) build/checkov-env/ready ## what checkov finds in the templates, beside what is accepted
	$(BIN)/python -m tests.checkov build/checkov-env/bin/checkov

e2e: $(READY)    ## image, emulator, cdk deploy, SAM; installs what it needs (Docker too, as root)
	$(BIN)/python -m pytest tests/e2e -m e2e

bench: build/bench-env/ready ## measure the product beside its peers, on the image's Python; writes benchmarks/RESULTS.md
	build/bench-env/bin/python -m benchmarks --markdown benchmarks/RESULTS.md --readme README.md --history

bench-refusals: build/bench-env/ready ## measure what hostile bodies cost; writes benchmarks/REFUSALS.md
	build/bench-env/bin/python -m benchmarks --only refusals --markdown benchmarks/REFUSALS.md

build/bench-env/ready: requirements/dev.txt
	$(BENCH_PYTHON) -m venv build/bench-env
	build/bench-env/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

bench-image: $(READY) ## cold start of images under the Lambda emulator; writes benchmarks/IMAGE.md
	$(BIN)/python -m benchmarks.image --markdown benchmarks/IMAGE.md

power: $(READY)  ## the power study of drift; writes docs/drift.md and its plot
	$(BIN)/python -m benchmarks.drift_power --markdown docs/drift.md --svg docs/drift.svg

example: $(READY) ## train and pack the shipped model again
	$(BIN)/python examples/diabetes/train.py build/diabetes
	$(BIN)/python -m answerable pack build/diabetes/model.onnx --reference build/diabetes/reference.csv \
	  --contract examples/diabetes/contract.toml --metrics build/diabetes/metrics.json \
	  --name diabetes --version 1.0.0 --owner "Answerable's maintainers" \
	  --reason "the first version: boosted trees on the diabetes study" --replace
	rm -rf tests/project/model_artifacts/diabetes
	cp -r model_artifacts/diabetes tests/project/model_artifacts

image: $(READY)  ## build the function's image and print its size (MODEL=name)
	$(BIN)/python -m answerable image $(CHOSEN)

synth deploy destroy: $(READY)
synth:           ## the CloudFormation template, in cdk.out/ (STAGE=prod MODEL=name ARGS="-c memory=3008")
	$(DEPLOY)

bootstrap: $(READY) ## prepare the AWS account that you are logged in to for CDK, once
	$(BIN)/python -m answerable bootstrap $(ARGS)

deploy:          ## deploy to the AWS account that you are logged in to (STAGE=prod MODEL=name)
	$(DEPLOY)

destroy:         ## delete the stack; log groups and buckets stay (STAGE=prod MODEL=name)
	$(DEPLOY)

smoke: $(READY)  ## the life of a model of its own on a real account, some 40 minutes (STAGE=dev ARGS=--dry-run)
	$(BIN)/python -m tests.smoke $(STAGE) $(ARGS)

sam: $(READY)    ## `sam local invoke` with a file of events/good (EVENT=rest-one-row), or with all
	$(BIN)/python -m tests.e2e.sam $(EVENT)

lock: $(READY)   ## compile requirements/*.in, and pyproject.toml's extras, to hashed *.txt
	$(BIN)/python -m pip install --quiet uv
	cd requirements && for name in dev function text images extensions parquet fuzz audit ministack \
	  sam clients docs checkov frameworks; do \
	  case $$name in dev) with="../pyproject.toml --extra serve --extra deploy --extra parquet \
	      --extra text --extra images --extra extensions" ;; \
	    text | images | extensions) with="-c dev.txt --no-deps" ;; \
	    frameworks) with="../pyproject.toml --extra serve --extra sklearn --extra boosters --extra parquet" ;; \
	    function | parquet | fuzz) with="-c dev.txt" ;; *) with= ;; esac; \
	  ../$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate $$with $$name.in -o $$name.txt || exit 1; done

clean:           ## remove what make made
	rm -rf .venv build cdk.out .pytest_cache .mypy_cache .ruff_cache .hypothesis
