# `make help` lists the targets. Everything lands in .venv and .demo, both ignored by git.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Airflow starts in half the time when its bytecode is cached.
unexport PYTHONDONTWRITEBYTECODE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Of tests at the same time, each with servers of its own; 0 for pytest's --pdb and -s. One more than CI has cores, as
# many tests wait: for a password to expire, a lock, Airflow's scheduler.
PROCESSES ?= 3

.PHONY: help setup lint format docs test test-fast test-matrix floor torture bench scale demo demo-ui screenshots ceph tools postgresql clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# PyPI is asked each time for newer minors of PostgreSQL, which takes a third of a second.
setup: $(READY) ## create .venv with everything that tests and demo need, PostgreSQL's newest minors in .cache
	@$(BIN)/python -m testkit.postgresql_binaries

# A build that stopped half-way leaves no stamp, so the next one starts over.
$(READY): pyproject.toml provider/airflow_pg_s3/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version)'
	@echo 'Installing into $(VENV)'
	@test -x $(BIN)/uv || { $(PYTHON) -m venv --clear $(VENV) && $(BIN)/python -m pip install --quiet uv; }
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --group dev --editable '.[encryption]'
	@touch $@

lint: $(READY) ## ruff, format, mypy, the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=provider $(BIN)/lint-imports --no-logo --no-cache

format: $(READY) ## apply ruff's fixes and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# With --quiet, --strict would not see the warnings that it counts.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(READY) ## the documents as a site in build/docs, with a reference made from the code; a dead link fails
	$(BIN)/python -m mkdocs build --strict --config-file website/mkdocs.yml

# In the order of their names, unit tests come last: short files, so that all processes end together.
test: setup ## all tests: unit, integration, system
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: $(READY) ## unit tests alone
	$(BIN)/python -m pytest tests/unit tests/docs $(ARGS)

FLOOR := .cache/floor
floor: $(READY) ## import the package and its DAGs with the oldest versions that pyproject.toml allows
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(FLOOR)
	$(BIN)/uv pip install --quiet --python $(FLOOR)/bin/python --resolution lowest-direct '.[encryption]'
	$(FLOOR)/bin/python -m testkit.minimum_versions

# The newest patch of each minor of Airflow, the day after its release, a Python. With the newest of all packages, 3.0
# and 3.2 do not start, so each Airflow is installed as of its day; then this package, which upgrades what it must.
MATRIX ?= 3.0.6,2025-08-30,3.11 3.1.8,2026-03-12,3.12 3.2.2,2026-05-30,3.13 3.3.2,2026-09-18,3.12
test-matrix: setup ## the system tests with each minor of Airflow, on several Pythons: half an hour; MATRIX='…' for one
	@for entry in $(MATRIX); do \
		IFS=, read -r airflow day python <<<"$$entry"; \
		place=.cache/matrix/$$airflow; \
		echo "Airflow $$airflow on Python $$python"; \
		$(BIN)/uv venv --quiet --clear --python "$$python" "$$place"; \
		install=("$(BIN)/uv" pip install --quiet --python "$$place" "apache-airflow==$$airflow"); \
		"$${install[@]}" --exclude-newer "$$day"; \
		"$${install[@]}" --compile-bytecode --group dev --editable '.[encryption]'; \
		"$$place/bin/python" -m pytest -n $(PROCESSES) --dist loadfile tests/system --ignore tests/system/test_wheel.py $(ARGS); \
	done

torture: SECONDS_OF_FUZZING := 60
torture: setup ## every fault at every request, hundreds of kills, all corruptions and versions, fuzzing: some three hours
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group torture
	$(BIN)/python -m testkit.fuzz_runner $(SECONDS_OF_FUZZING)
	PG_S3_TORTURE=1 $(BIN)/python -m pytest -n $(PROCESSES) --timeout 7200 $(ARGS)

bench: setup ## measure backups and restores beside what people run, on Ceph: an hour or two
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group bench
	$(BIN)/python -m benchmarks $(ARGS)

scale: setup ## 20 GB, 100,000 objects, 100,000 backups, 50 databases under Airflow: an hour
	$(BIN)/python -m benchmarks.scale $(ARGS)

demo: $(READY) ## back up, list, restore and compare a realistic database, through Airflow
	$(BIN)/python -m demo

demo-ui: $(READY) ## the same, and then Airflow with the Backups page, until Ctrl-C
	$(BIN)/python -m demo --ui

screenshots: $(READY) ## take the screenshots in docs/images anew, in Chromium (make tools)
	$(BIN)/python -m demo.screenshots $(ARGS)

# Packages that CI tests with besides what pip installs; root is needed to install them.
CEPH := ceph-mon ceph-osd ceph-mgr radosgw
TOOLS := age awscli chromium fonts-inter jq locales pgbouncer zstd
ceph: PACKAGES := $(CEPH)
ceph: ## install Ceph's radosgw with apt-get, if it is missing: a real S3 server for the tests
tools: PACKAGES := $(TOOLS)
tools: ## install what some tests need with apt-get, if it is missing: the commands of docs/recovery.md, a locale, a pooler, a browser
ceph tools:
	@if [ "$$(dpkg-query -W -f '$${db:Status-Status}\n' $(PACKAGES) 2>/dev/null | grep -c '^installed$$')" = $(words $(PACKAGES)) ]; then \
		echo 'installed: $(PACKAGES)'; \
	elif [ "$$(id -u)" != 0 ]; then \
		echo 'missing, and only root can install them: sudo make $@' >&2; exit 1; \
	else \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES); \
	fi

# Unlike those, it is brought up to date where it is installed: minors change what pg_restore takes.
POSTGRESQL := postgresql-15 postgresql-client-15
OLDEST_MINOR := 15.20
postgresql: ## bring Debian's PostgreSQL 15 to its newest minor with apt-get, servers and clients
	@if [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(POSTGRESQL); \
	fi
	@for package in $(POSTGRESQL); do \
		version=$$(dpkg-query -W -f '$${Version}' "$$package" 2>/dev/null || true); \
		dpkg --compare-versions "$$version" ge $(OLDEST_MINOR) || { \
			echo "$$package is $${version:-missing}, not $(OLDEST_MINOR) or later: sudo make $@, with a source of apt that has it" >&2; \
			exit 1; \
		}; \
		echo "installed: $$package $$version"; \
	done

clean: ## remove the environment, the demo's state and all caches
	rm -rf $(VENV) $(FLOOR) .cache/matrix .cache/postgresql .demo .hypothesis .mypy_cache .pytest_cache .ruff_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
