# The only entry. Each target does all of its own set-up; what it makes is cached by content below $(CACHE).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/peerpods
PYTHON ?= /usr/bin/python3
VENV := $(shell PYTHON=$(PYTHON) CACHE=$(CACHE) tools/venv.sh --path)
TOOLS := $(shell CACHE=$(CACHE) tools/setup.sh --tools)
export PATH := $(VENV)/bin:$(PATH):$(TOOLS)/usr/sbin:$(TOOLS)/usr/bin
export CACHE

.PHONY: venv print-venv protos lock
venv:
	@PYTHON=$(PYTHON) CACHE=$(CACHE) tools/venv.sh

print-venv:
	@echo $(VENV)

protos: venv
	tools/protos.sh

lock:
	tools/lock.sh

# Debian packages, without starting or enabling a service; as root.
.PHONY: setup image
setup:
	@tools/setup.sh

# The pod VM image below $(CACHE); KATA_AGENT, KATA_AGENT_SHA256 and GUEST_COMPONENTS name a kata-agent release.
image: venv
	@tools/setup.sh --group base
	python -m peerpods.image build $(if $(KATA_AGENT),--kata-agent $(KATA_AGENT)) \
	    $(if $(KATA_AGENT_SHA256),--kata-agent-sha256 $(KATA_AGENT_SHA256)) \
	    $(if $(GUEST_COMPONENTS),--guest-components $(GUEST_COMPONENTS))
