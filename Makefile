# make pipeline   set up, fetch the sample's catalogue, run every stage that is out of date
# make ui         look at the runs in MLflow
# make test       set up, run the tests
# make check      formatting, lint, types, import contracts
# make audit      known vulnerabilities of what requirements.lock installs; asks a service on the network
# make lock       resolve requirements.lock anew from pyproject.toml

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS = 1
export DO_NOT_TRACK = 1
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export GX_ANALYTICS_ENABLED = false
export MLFLOW_DISABLE_TELEMETRY = true

.PHONY: install pipeline ui test check audit lock

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --progress-bar on -r requirements.lock
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	touch $@

pipeline: install
	$(BIN)/dvc pull data.dvc
	$(BIN)/dvc repro

ui: install
	@echo "The runs: http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=20

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy cgm2net pipelines
	$(BIN)/lint-imports

# In an environment of its own; --strict: what the service cannot tell counts as a finding.
audit:
	$(PYTHON) -m venv --clear .cache/audit
	.cache/audit/bin/pip install 'pip-audit>=2.10,<3'
	.cache/audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --strict --progress-spinner off

# torch's CUDA libraries stay out of the lock: torch pins them itself, and a CPU build has none.
# Triton is the one that a CUDA build of this torch pins.
lock:
	$(PYTHON) -m venv --clear .cache/lock
	.cache/lock/bin/pip install torch==2.13.0 triton==3.7.1 setuptools wheel '.[pipelines,clouds,dask,export,services,infra,dev]'
	.cache/lock/bin/pip freeze --exclude-editable --all --exclude cgm2net --exclude pip | sed 's/+cpu$$//' > requirements.lock
