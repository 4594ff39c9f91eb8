# Every target starts from nothing: it makes the virtual environment it needs and installs what is missing.
# Python 3.11 or later; give another as PYTHON=...
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test test-slow check check-protos bench protos release-protos clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       the whole job on a small synthetic corpus, and its report"
	@echo "make test       the tests"
	@echo "make test-slow  the tests that need over 40 s each: whole clusters, many kills"
	@echo "make check      lint, format, types, spelling, generated stubs"
	@echo "make bench      the benchmarks (ratios against named alternatives)"
	@echo "make protos     regenerate the gRPC stubs"

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/emostream demo --out demo

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=25

# Three at a time on two cores: tests that wait for a cluster to start leave a core to the others.
test: $(STAMP)
	$(PYTEST) -n 3 --dist loadfile -m "not slow"

# One after the other: they start clusters and wait for deaths to be noticed.
test-slow: $(STAMP)
	$(PYTEST) -m slow

check: $(STAMP) check-protos
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) .venv-protos demo build dist *.egg-info

# grpcio-tools is pinned, in an environment of its own: what 1.75 generates runs on every protobuf from 6.31 on, and its
# own protobuf pin must not reach the project's.
PROTO_STAMP := .venv-protos/.installed
$(PROTO_STAMP): Makefile
	$(PYTHON) -m venv .venv-protos
	.venv-protos/bin/python -m pip install --quiet "grpcio-tools==1.75.1" "setuptools<81" "buf-bin==1.75.0"
	@touch $(PROTO_STAMP)

protos: $(PROTO_STAMP)
	.venv-protos/bin/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. protos/speaker_index.proto

# Fails when the committed stubs are not what protos/*.proto generates, or when clients of the last release would break.
check-protos: $(PROTO_STAMP)
	@mkdir -p build/protos
	.venv-protos/bin/python -m grpc_tools.protoc -I . --python_out=build/protos --pyi_out=build/protos \
		--grpc_python_out=build/protos protos/speaker_index.proto
	diff -r -x '*.proto' -x '*.json' -x __init__.py -x __pycache__ protos build/protos/protos
	.venv-protos/bin/buf breaking protos --against protos/released.json

# With each release: what later versions must not break.
release-protos: $(PROTO_STAMP)
	.venv-protos/bin/buf build protos --exclude-source-info -o -\#format=json | $(BIN)/python -m json.tool --indent 1 > protos/released.json
