# A working day: repro, test, check, bench. Everything runs in .venv, made from requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
# DVC runs a stage's command by the shell, which must find this python and no other.
export PATH := $(CURDIR)/$(BIN):$(PATH)

NVIDIA := $(shell sed -n 's/^\(nvidia-[a-z0-9-]*\|cuda-[a-z]*\|triton\)==.*/--no-emit-package \1/p' requirements.lock)

.PHONY: lock
lock:  ## Resolve pyproject.toml anew into requirements.lock (needs uv).
	uv pip compile --universal --python-version 3.11 --all-extras --no-header --no-annotate --upgrade \
	    --no-emit-package triton $(foreach name,$(CUDA),--no-emit-package $(name)) \
	    --output-file requirements.lock pyproject.toml
