# Every target starts from nothing: it makes the virtual environment it needs and installs what is missing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test check check-protos bench protos clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    the whole job on a small synthetic corpus, and its report"
	@echo "make test    the tests"
	@echo "make check   lint, format, types, generated stubs"
	@echo "make bench   the benchmarks (ratios against named alternatives)"
	@echo "make protos  regenerate the gRPC stubs"

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/emostream demo --out demo

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP) check-protos
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) .venv-protos demo build dist *.egg-info

# grpcio-tools is pinned, in an environment of its own: what 1.75 generates runs on every protobuf from 6.31 on, and its
# own protobuf pin must not reach the project's.
PROTO_STAMP := .venv-protos/.installed
$(PROTO_STAMP): Makefile
	$(PYTHON) -m venv .venv-protos
	.venv-protos/bin/python -m pip install --quiet "grpcio-tools==1.75.1" "setuptools<81"
	@touch $(PROTO_STAMP)

protos: $(PROTO_STAMP)
	.venv-protos/bin/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. protos/speaker_index.proto

# Fails when the committed stubs are not what protos/*.proto generates.
check-protos: $(PROTO_STAMP)
	@mkdir -p build/protos
	.venv-protos/bin/python -m grpc_tools.protoc -I . --python_out=build/protos --pyi_out=build/protos \
		--grpc_python_out=build/protos protos/speaker_index.proto
	diff -r -x '*.proto' -x __init__.py -x __pycache__ protos build/protos/protos
