# Every target works on a fresh clone: the environment is made from requirements/ when needed.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.8
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
NOTEBOOKS_STAMP := $(VENV)/.installed-notebooks
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed
STATE := .ibook
TEST_WORKERS ?= 2
STREAM_LOG := $(STATE)/stream/stream.log
STREAM_PID := $(STATE)/stream/pid
export DAGSTER_HOME := $(CURDIR)
export DO_NOT_TRACK := 1

##@ Use
.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} \
	/^[a-z-]+:.*##/ {printf "  \033[36m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(STAMP) ## Simulate, materialise, promote, serve and score one request (Ctrl-C ends it)
	@$(BIN)/ibook demo

.PHONY: story
story: $(STAMP) ## Drift, retraining, rollout and a rollback by themselves, while orders are scored
	@$(BIN)/ibook story drift

.PHONY: dev
dev: $(STAMP) ## Dagster UI and daemon on http://127.0.0.1:3000
	@mkdir -p $(STATE)
	@$(BIN)/dagster dev --host 127.0.0.1 --port 3000 -w workspace.yaml

.PHONY: serve
serve: $(STAMP) ## Scoring server on http://127.0.0.1:8000 (docs at /docs)
	@$(BIN)/python -m ibook_serving

.PHONY: mlflow
mlflow: $(STAMP) ## MLflow UI on http://127.0.0.1:5000
	@$(BIN)/ibook mlflow

.PHONY: notebooks
notebooks: $(NOTEBOOKS_STAMP) ## JupyterLab over docs/notebooks on http://127.0.0.1:8888, with the token it prints
	@$(BIN)/jupyter lab --no-browser --ServerApp.ip=127.0.0.1 --ServerApp.port=8888 \
	--ServerApp.port_retries=0 --ServerApp.root_dir=docs/notebooks --LabApp.extension_manager=readonly \
	--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(ARGS)

.PHONY: stream-start
stream-start: $(STAMP) ## Broker (if none listens), sink, worker and probe, in the background
	@mkdir -p $(STATE)/stream
	@if [ -f $(STREAM_PID) ] && kill -0 "$$(cat $(STREAM_PID))" 2>/dev/null; then \
	echo "the stream runs already (process $$(cat $(STREAM_PID)))"; else \
	nohup $(BIN)/ibook stream up >> $(STREAM_LOG) 2>&1 & echo $$! > $(STREAM_PID); \
	echo "the stream starts (process $$(cat $(STREAM_PID))): make stream-logs, make stream-stop"; fi

.PHONY: stream-logs
stream-logs: ## Follow what the stream says (Ctrl-C ends the reading only)
	@tail -n 40 -F $(STREAM_LOG)

.PHONY: stream-stop
stream-stop: ## End what stream-start started
	@[ -f $(STREAM_PID) ] || { echo "nothing to stop: make stream-start did not run here"; exit 0; }; \
	kill "$$(cat $(STREAM_PID))" 2>/dev/null; rm -f $(STREAM_PID)

.PHONY: seed-data
seed-data: $(STAMP) ## Write the reference data set (10,000 transactions) to data/
	@$(BIN)/python -m ibook_sim seed-data --out data

.PHONY: sim-list
sim-list: $(STAMP) ## List the simulator's scenarios
	@$(BIN)/python -m ibook_sim list-scenarios

.PHONY: sim-run
sim-run: $(STAMP) ## Run one scenario (scenario=flash-sale duration=10m), report in reports/
	@$(BIN)/python -m ibook_sim run $(or $(scenario),normal-traffic) \
	$(if $(duration),--duration $(duration)) -o reports/$(or $(scenario),normal-traffic).html

.PHONY: sim-run-all
sim-run-all: $(STAMP) ## Run every scenario (duration=10m), reports in reports/
	@$(BIN)/python -m ibook_sim run-all $(if $(duration),--duration $(duration)) -o reports

.PHONY: sim-mix
sim-mix: $(STAMP) ## Run scenarios at once (duration=10m scenarios="drift:40,null:60")
	@$(BIN)/python -m ibook_sim mix $(if $(duration),--duration $(duration)) \
	$(if $(scenarios),--scenarios "$(scenarios)") -o reports/mix.html

.PHONY: sim-realtime
sim-realtime: $(STAMP) ## Load on a schedule (scenario=flash-sale rps=200 duration=60, API_BASE_URL)
	@$(BIN)/ibook sim realtime $(or $(scenario),normal-traffic) \
	$(if $(rps),--rps $(rps)) $(if $(duration),--duration $(duration)) \
	-o reports/realtime-$(or $(scenario),normal-traffic).html

.PHONY: clean
clean: ## Delete all state and caches (asks first; YES=1 does not)
	@if [ "$(YES)" != 1 ]; then read -r -p "Delete $(STATE), reports and caches? [y/N] " a; [ "$$a" = y ]; fi
	@rm -rf $(STATE) reports .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find ibook_assets ibook_serving ibook_sim tests bench -name __pycache__ -prune -exec rm -rf {} +

##@ Develop
.PHONY: test
test: $(STAMP) ## Run the tests (ARGS="-n 0 -k …" for some, one after the other)
	@$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(ARGS)

.PHONY: services
services: ## Get Apache Kafka for the tests (Java and Maven needed; Redis is a Debian package)
	@command -v mvn >/dev/null && command -v redis-server >/dev/null || \
	  echo "Install the servers of the tests first: apt-get install default-jre-headless maven redis-server"
	@command -v mvn >/dev/null
	@mvn -B -ntp -q -f tests/services/kafka/pom.xml dependency:copy-dependencies \
	  -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/.services/kafka/libs
	@echo "Apache Kafka is in .services/kafka/libs"

.PHONY: check
check: $(STAMP) lint types layers test ## Lint, types, layers, dependencies and tests

.PHONY: lint
lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/deptry .

.PHONY: types
types: $(BENCH_STAMP)
	@$(BIN)/mypy

.PHONY: layers
layers: $(STAMP)
	@$(BIN)/lint-imports --no-logo

.PHONY: format
format: $(STAMP) ## Format the code and mend what lint can mend
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

.PHONY: bench
bench: $(BENCH_STAMP) ## Measure against named peers (writes reports/bench)
	@$(BIN)/python -m bench $(ARGS)

.PHONY: load
load: $(BENCH_STAMP) ## Locust against a running server (API_BASE_URL, IBOOK_LOAD_RPS=1000, seconds=60)
	@$(BIN)/locust -f bench/locustfile.py --headless --host $${API_BASE_URL:-http://127.0.0.1:8000} \
	--users $$(( $${IBOOK_LOAD_RPS:-1000} / 10 )) --spawn-rate 100 --run-time $(or $(seconds),60)s --reset-stats

.PHONY: bench-peers
bench-peers: $(PEERS_STAMP) ## Install the benchmark's peers that need an environment of their own

.PHONY: audit
audit: $(STAMP) ## Known vulnerabilities of the locked packages, and an SBOM in reports/
	@mkdir -p reports
	@$(BIN)/pip-audit --strict --require-hashes --disable-pip -r requirements/runtime.txt
	@$(BIN)/pip-audit --require-hashes --disable-pip -r requirements/runtime.txt -f cyclonedx-json -o reports/sbom.json

.PHONY: setup
setup: $(STAMP) ## Make the environment only

.PHONY: lock
lock: $(STAMP) ## Pin every dependency anew (requirements/*.txt)
	@$(BIN)/python scripts/lock.py

$(BIN)/uv:
	@echo "Making $(VENV) with $(PYTHON) …"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v == (3, 11) or sys.exit(f"ibook needs Python 3.11, {sys.executable} is {v[0]}.{v[1]}; set PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(STAMP): requirements/dev.txt pyproject.toml | $(BIN)/uv
	@echo "Installing the locked packages …"
	@$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/dev.txt --python $(BIN)/python
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e . --python $(BIN)/python
	@echo "Compiling the kernels …"
	@$(BIN)/python -m scripts.compile_kernels
	@touch $@

$(BENCH_STAMP): requirements/bench.txt $(STAMP)
	@$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/bench.txt --python $(BIN)/python
	@touch $@

# A script with cells opens as a notebook on a double click; without this, as text.
$(NOTEBOOKS_STAMP): requirements/notebooks.txt $(STAMP)
	@$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/notebooks.txt --python $(BIN)/python
	@$(BIN)/jupytext-config --settings-file $(VENV)/etc/jupyter/labconfig/default_setting_overrides.json set-default-viewer python
	@touch $@

$(PEERS_STAMP): requirements/bench-peers.txt | $(BIN)/uv
	@$(BIN)/uv venv --quiet --python $(BIN)/python --clear $(PEERS)
	@$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/bench-peers.txt --python $(PEERS)/bin/python
	@touch $@
