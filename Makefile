# The only entry. Each target does all of its own set-up; what it makes is cached by content below $(CACHE).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/peerpods
PYTHON ?= /usr/bin/python3
VENV := $(shell PYTHON=$(PYTHON) CACHE=$(CACHE) tools/venv.sh --path)
export PATH := $(VENV)/bin:$(PATH)

.PHONY: venv print-venv protos lock
venv:
	@PYTHON=$(PYTHON) CACHE=$(CACHE) tools/venv.sh

print-venv:
	@echo $(VENV)

protos: venv
	tools/protos.sh

lock:
	tools/lock.sh
