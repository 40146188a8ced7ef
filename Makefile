# A working day: repro, test, check, bench. Everything runs in .venv, which is made from requirements.lock.
PYTHON ?= python3
# DVC runs a stage's command by the shell, which must find this python and no other.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
UNLOCKED := cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
    nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
    nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx triton

IN_TWO := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: help setup repro test test-long test-build check format verify bench bench-data bench-flows bench-train bench-lineage campaign lock clean

help:  ## What can be made.
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 18

setup: .venv/ready  ## Install everything, locked, into .venv.

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

repro: setup  ## Build what isn't up to date, and say what was made.
	pedigree check
	dvc repro
	pedigree summary

test: setup  ## All tests but the long ones and those of the default build: tiny projects, real servers.
	python -m pytest $(IN_TWO) -m "not default_build and not long"

test-long: setup  ## What takes a minute and more: the deployments, the README's week, a few builds of the campaign.
	python -m pytest $(IN_TWO) -m long

test-build: setup  ## The default build, made if it isn't there yet, and what is promised of it.
	python -m pytest -m default_build tests/test_default_build.py

check: setup  ## Format, lint, types, import arrows.
	ruff format --check .
	ruff check .
	mypy
	lint-imports

format: setup  ## Mend what `make check` says of format and lint, where that can be done.
	ruff format .
	ruff check --fix .

verify: setup  ## Build a second time, in a clean copy without a cache, and compare digests.
	pedigree verify

bench: bench-data  ## This program and its peers on the same work, in turn.

bench-data: setup  ## Rules, MinHash, tokens, languages, pages: beside datatrove and trafilatura.
	python -m benchmarks.data

bench-flows: setup  ## What a flow costs beyond DVC, and what it saves.
	python -m benchmarks.flows

bench-train: setup  ## The training step beside a hand-written loop and transformers' Trainer.
	python -m benchmarks.train

bench-lineage: setup  ## How long questions take, to a million documents and a hundred builds.
	python -m benchmarks.lineage

campaign: setup  ## 100 builds, each with a fault at a random moment, and the table of what became of them.
	python -m pytest tests/flows/test_campaign.py --builds 100 --timeout 7200 -s

lock:  ## Resolve pyproject.toml anew into requirements.lock (needs uv). torch brings its own CUDA packages.
	uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-header --no-annotate \
	    $(foreach name,$(UNLOCKED),--no-emit-package $(name)) --output-file requirements.lock pyproject.toml

clean:  ## Remove work in progress: checkpoints, partial downloads, logs.
	rm -rf scratch/pretrain scratch/trunks scratch/trackers scratch/download logs dvc_plots
