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

.PHONY: venv base print-venv protos lock
base:
	@tools/setup.sh --group base --soft

venv: base
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

# The local pod VM image below $(CACHE); with TEE, ARCH or PROFILE any image of the matrix, below build/images. KATA_AGENT,
# KATA_AGENT_SHA256 and GUEST_COMPONENTS name a kata-agent release; LOCK is strict or anew; SIGNING_KEY is a PEM file.
# TEE=se reads SE_STAGE3A, SE_STAGE3B, SE_HOST_KEYS, SE_CERTIFICATES, SE_CRLS, SE_ROOT, SE_KEYS, SE_SUITES and SE_DEBS of the
# environment: docs/images.md.
image: venv
	@python -m peerpods.image build $(if $(TEE),--tee $(TEE)) $(if $(ARCH),--arch $(ARCH)) \
	    $(if $(PROFILE),--profile $(PROFILE)) $(if $(LOCK),--lock $(LOCK)) \
	    $(if $(SIGNING_KEY),--signing-key $(SIGNING_KEY)) $(if $(KATA_AGENT),--kata-agent $(KATA_AGENT)) \
	    $(if $(KATA_AGENT_SHA256),--kata-agent-sha256 $(KATA_AGENT_SHA256)) \
	    $(if $(GUEST_COMPONENTS),--guest-components $(GUEST_COMPONENTS))

# A kata-agent release below $(CACHE), by its digest: KATA_AGENT_SHA256 or the pinned one; KATA_AGENT_URL names another
# place, ARCH another architecture. Never done by any other target.
.PHONY: fetch-agent
fetch-agent: venv
	@python -m peerpods.image fetch-agent $(if $(ARCH),--arch $(ARCH))

# Packer 1.6.6 where the host has none: prints its path.
.PHONY: packer
packer: venv
	@python tools/packer.py

# diffoscope of Debian 13, unpacked below $(CACHE), for `peerpods image diff --report FILE`.
.PHONY: diffoscope
diffoscope: venv
	@python tools/diffoscope.py

# The demo: a real pod in a real VM, in namespaces of its own. As root.
.PHONY: demo
demo: image
	@tools/setup.sh --run python -m peerpods.demo --image-dir "$$(python -m peerpods.image path)"

# All checks and tests, as .ci/run runs them.
.PHONY: test lint type unit
test: test-setup image lint type unit

.PHONY: test-setup
test-setup:
	@tools/setup.sh --group test --soft

lint: venv
	ruff check --output-format concise src tests bench
	ruff format --check -q src tests bench
	lint-imports
	codespell src tests bench docs tools README.md CONTRIBUTING.md changelog.d
	python tools/shape.py

type: venv
	mypy
	mypy --strict -p peerpods.ttrpc -p peerpods.adaptor -p peerpods.relay -p peerpods.forwarder -p peerpods.tls \
	    -p peerpods.pki -p peerpods.userdata -p peerpods.podnet -p peerpods.kube.client -p peerpods.kube.objects \
	    -m peerpods.model -m peerpods.errors

unit: venv
	@tools/setup.sh --run python -m pytest -q $(PYTEST_FLAGS)

# The tests with a real API server, which is built the first time (tools/kube.sh); KUBEBUILDER_ASSETS names another.
.PHONY: test-kube
test-kube: test-setup venv
	@tools/kube.sh
	export PATH="$$(tools/kube.sh --clients):$$PATH"
	@for part in tests/kube/test_*.py tests/kube/adaptor tests/kube/client tests/kube/conformance tests/kube/peerpod \
	    tests/kube/peerpodconfig tests/kube/webhook tests/kube/install; do
	    printf '\n== %s\n' "$$part"
	    status=0
	    tools/setup.sh --run python -m pytest -q -m kube $(PYTEST_FLAGS) $$part || status=$$?
	    [ $$status = 0 ] || [ $$status = 5 ] || exit $$status   # 5: nothing of it needs a server
	done

# The proofs about pod VM images: each is built (once for what it depends on) and booted, two at a time. As root.
.PHONY: test-images
test-images: test-setup venv
	@tools/setup.sh --run python -m pytest -q -m images $(PYTEST_FLAGS) tests/images

# From the start of a machine to a forwarder that listens, by phases: two images are built and booted; and how long all
# reference values take. As root.
.PHONY: bench-images
bench-images: test-setup venv
	@mkdir -p $(CACHE)/bench
	for name in image_boot image_measure; do
	    printf '\n== bench/%s.py\n' $$name
	    tools/setup.sh --run python bench/$$name.py --json $(CACHE)/bench/$$name.json
	done

# Figures against baselines of the same run: tables, and JSON below $(CACHE)/bench. About two minutes; as root.
.PHONY: bench
bench: venv
	@mkdir -p $(CACHE)/bench
	for name in ttrpc datapath scale starts forwarder informer webhook; do
	    printf '\n== bench/%s.py\n' $$name
	    tools/setup.sh --run python bench/$$name.py --json $(CACHE)/bench/$$name.json
	done
