# Every target is one line of `clickproof`.  SIZE=tiny|small|large, SOURCE=world|open-bandit, DATA=FOLDER, BUG=CODE-OR-NAME.
PYTHON ?= python3.11
SIZE ?= $(or $(CLICKPROOF_SIZE),small)
SOURCE ?= $(or $(CLICKPROOF_SOURCE),world)
BUG ?= label-leakage
BENCH ?= world
RATE ?= 200
SECONDS ?= 10
CLICKPROOF := .venv/bin/clickproof
export CLICKPROOF_SIZE := $(SIZE)
export CLICKPROOF_SOURCE := $(SOURCE)
ifdef DATA
export CLICKPROOF_DATA := $(DATA)
endif

.DEFAULT_GOAL := help
.PHONY: help setup train serve score report retrain inject live test check gauntlet bench load docs clean

help:  ## print these lines
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' Makefile

setup: .venv/.ready  ## make .venv and install everything (again after an interruption: it resumes)

.venv/.ready: pyproject.toml constraints.txt infra/setup.sh
	@PYTHON="$(PYTHON)" sh infra/setup.sh

train: setup  ## run the main job: events -> lake -> features -> models -> champion
	$(CLICKPROOF) train

serve: setup  ## answer POST /v1/rank with the champion
	$(CLICKPROOF) serve

score: setup  ## score the latest day of impressions in batch
	$(CLICKPROOF) score

report: setup  ## write the Evidently drift report: reference week against the latest day
	$(CLICKPROOF) report

retrain: setup  ## decide whether to retrain, train, gate, promote
	$(CLICKPROOF) retrain

inject: setup  ## break it on purpose (BUG=label-leakage or feature-drift) and see it caught
	$(CLICKPROOF) inject $(BUG)

live: setup  ## the control room: a page on which to break the running system and watch it say what broke
	$(CLICKPROOF) live

test: setup  ## run the tests
	.venv/bin/python -m pytest -q -n 2

check: setup  ## lint, types, arrows between rooms, generated docs
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports && $(CLICKPROOF) docs --check

gauntlet: setup  ## every bug in several worlds: the scoreboard (some 40 minutes; QUICK=1: 3)
	$(CLICKPROOF) gauntlet $(if $(QUICK),--quick)

bench: setup  ## measure (BENCH=world, join, score or serve)
	$(CLICKPROOF) bench $(BENCH)

load: setup  ## load test of the endpoint that `make serve` runs (RATE=200 requests a second, SECONDS=10)
	$(CLICKPROOF) load --rate $(RATE) --seconds $(SECONDS)

docs: setup  ## write the generated pages of docs/ again
	$(CLICKPROOF) docs

clean:  ## delete all state (.clickproof), keep .venv
	rm -rf .clickproof
