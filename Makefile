# Every target sets up what it needs by itself: the environment in .venv, and system packages by apt
# when they are missing and this runs as root. `make` alone lists the targets.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
FUZZ_STAMP  := $(VENV)/.fuzz
BENCH_VENV  := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed
REFUSE_VENV := .venv-refuse
REFUSE_STAMP := $(REFUSE_VENV)/.installed
REFUSE_FULL := $(REFUSE_VENV)/.compiled
REFUSE_LIST := tests/refuse/programs/programs.txt
REFUSE_LIST_FULL := tests/refuse/programs/compiled.txt
COMPILED    := $(wildcard src/puffs/attach/fuse/_compiled.px* src/puffs/refuse/_*.pyx)
# Where Debian's libfuse3-dev has them; systems that install no documentation leave them out.
EXAMPLES    := usr/share/doc/libfuse3-dev/examples

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# An environment is whole when its stamp names this checkout (it was not copied or moved) and its
# interpreter still starts. Anything else is made again from nothing.
whole = $(shell [ "$$(cat $(1)/.installed 2>/dev/null)" = "$(CURDIR)" ] && \
	$(1)/bin/python -c 'import pip' 2>/dev/null && echo yes)

comma := ,
hash := \#

# $(call apt,TEST,PACKAGES,WHAT FOR): when the shell command TEST fails, install PACKAGES.
define apt
	if ! { $(1); } >/dev/null 2>&1; then \
		if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
			echo "make: $(3) needs the system package(s) $(2); install them as root and try again" >&2; \
			exit 1; \
		fi; \
		echo "installing $(2) ($(3))"; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get install -y -qq --no-install-recommends $(2) >/dev/null 2>&1 || { \
			apt-get update -qq && \
			apt-get install -y -qq --no-install-recommends $(2) >/dev/null; }; \
	fi
endef

# $(call venv,DIRECTORY): a new environment, unless a whole one is only to be brought up to date.
define venv
	if [ "$(call whole,$(1))" != yes ]; then \
		$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
			"make: puffs needs Python 3.11 or later and $(PYTHON) is " + sys.version.split()[0] \
			+ "; name another one, as in: make PYTHON=python3.12")'; \
		$(call apt,$(PYTHON) -c 'import ensurepip$(comma) venv',python3-venv,the environment $(1)); \
		echo "making $(1)"; \
		rm -rf $(1); \
		$(PYTHON) -m venv $(1); \
	fi; \
	rm -f $(1)/.installed
endef

PIP_FLAGS := --quiet --disable-pip-version-check

# What the compiled loop is built with. Without it the plain one serves.
for_compiling = ( $(call apt,echo '$(hash)include <Python.h>' | cc -E -I"$$($(PYTHON) -c 'import sysconfig; \
	print(sysconfig.get_path("include"))')" -,gcc libc6-dev python3-dev,the compiled loop) ) || true

# What some tests need beside Python. Without it they are skipped.
for_tests = ( $(call apt,command -v fusermount3,fuse3,mounting as an ordinary user) ) || true; \
	( $(call apt,type rsync git tar,rsync git tar,what the tests run on mounts) ) || true; \
	( $(call apt,command -v mkfs.xfs && command -v mkfs.btrfs,xfsprogs btrfs-progs,snapshots of null) ) || true

# Programs that tests/programs runs on mounts. Those that are not there are skipped.
testsuite = $(shell /usr/bin/python3 -c 'import sys; \
	print("libpython%d.%d-testsuite" % sys.version_info[:2])' 2>/dev/null)
for_programs = ( $(call apt,ls /usr/lib/postgresql/*/bin/initdb,postgresql,a database) ) || true; \
	( $(call apt,type fio stress-ng,fio stress-ng,stress) ) || true; \
	( $(call apt,type cc make autoreconf libtoolize,gcc libc6-dev make autoconf automake libtool, \
		building a C project) ) || true; \
	( $(call apt,type setfacl inotifywait flock mkfs.ext4,acl inotify-tools util-linux e2fsprogs, \
		what the tests run on mounts) ) || true; \
	( $(call apt,$(PY) -c 'import test.test_os' || /usr/bin/python3 -c 'import test.test_os', \
		$(testsuite),tests of CPython) ) || true

# What is measured beside puffs. Without it the report says what is missing.
python_h = import os; import sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")
libfuse2 = $(shell apt-cache show libfuse2t64 >/dev/null 2>&1 && echo libfuse2t64 || echo libfuse2)
for_bench = ( $(call apt,type git tar,git tar,what is done with trees) ) || true; \
	( $(call apt,type bindfs,bindfs,bindfs) ) || true; \
	( $(call apt,/sbin/ldconfig -p | grep -F libfuse3.so,fuse3,mfusepy) ) || true; \
	( $(call apt,/sbin/ldconfig -p | grep -F libfuse.so.2,$(libfuse2),fusepy) ) || true; \
	( $(call apt,pkg-config --exists fuse,pkg-config libfuse-dev,llfuse) ) || true; \
	( $(call apt,pkg-config --exists fuse3,pkg-config libfuse3-dev,a server of libfuse and pyfuse3) ) || true; \
	( $(call apt,$(PYTHON) -c '$(python_h)',python3-dev,pyfuse3 and llfuse) ) || true

# Programs that run on puffs unchanged, beside the libraries that they were written for. The tests
# name what is missing.
for_refuse = ( $(call apt,/sbin/ldconfig -p | grep -F libfuse3.so,fuse3,mfusepy) ) || true; \
	( $(call apt,/sbin/ldconfig -p | grep -F libfuse.so.2,$(libfuse2),fusepy) ) || true; \
	$(MAKE) -s $(REFUSE_STAMP) || true
for_refuse_full = ( $(call apt,pkg-config --exists fuse fuse3,pkg-config libfuse-dev libfuse3-dev,llfuse \
		and pyfuse3) ) || true; \
	( $(call apt,pkg-config --exists libacl liblz4 libzstd libxxhash openssl,gcc libc6-dev pkg-config \
		libacl1-dev libssl-dev liblz4-dev libzstd-dev libxxhash-dev,borg) ) || true; \
	( $(call apt,$(PYTHON) -c '$(python_h)',python3-dev,borg and pyfuse3 and llfuse) ) || true; \
	$(MAKE) -s $(REFUSE_FULL) || true

# How many processes run tests beside each other.
WORKERS ?= 2
# Files in their order: sorted by how many tests they have, those of one long test would be last.
BESIDE = -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# For how long `make fuzz` fuzzes each decoder.
SECONDS ?= 60

for_fuzz = $(MAKE) -s $(FUZZ_STAMP) || echo "make: going on without fuzzing" >&2

.PHONY: help demo test test-full statements operations recorded fuzz lint format bench clean $(VENV) $(BENCH_VENV)

help:  ## this list
	@awk -F ':.*## ' '/^[a-zA-Z.$$()_-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' \
		$(firstword $(MAKEFILE_LIST))

demo: $(STAMP)  ## mount a file system written in Python, unpack a real tree into it, verify it
	$(VENV)/bin/puffs demo

test: $(STAMP)  ## the tests, with real mounts where /dev/fuse is there (12 minutes)
	@$(for_tests)
	@$(for_fuzz)
	@$(for_refuse)
	$(PY) -m pytest -m "not slow" $(BESIDE)
	PUFFS_PURE=1 $(PY) -m pytest -m "loops and not slow" $(BESIDE)

test-full: test  ## the tests and the slow ones: real programs, stress
	@$(for_programs)
	@$(for_refuse_full)
	PUFFS_PURE=1 $(PY) -m pytest -m "fuse and not loops and not slow" $(BESIDE)
	$(PY) -m pytest -m slow

statements: $(STAMP)  ## what is proved of the reference, into docs/semantics.md (BREAK=1: and by what)
	@$(PY) -m tests.statements $(if $(BREAK),--break)

operations: $(STAMP)  ## record what the kernel asks for each call, into docs/operations.md
	@$(PY) -m tests.operations

recorded: $(STAMP)  ## what servers do on the libraries that puffs refuse stands for, into tests/refuse/recorded
	@$(for_refuse_full)
	@$(PY) -m tests.refuse.record

fuzz: $(FUZZ_STAMP)  ## hostile bytes into the decoders of frames (SECONDS=60 for each)
	@$(PY) -m tests.fuzz $(SECONDS)

lint: $(STAMP)  ## formatting, lint rules and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: $(STAMP)  ## format the code and apply what the linter can mend
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: $(STAMP)  ## ours and the peers: round trips against a loop in C, trees (BENCH="--rounds 20")
	@$(call apt,echo '#include <linux/fuse.h>' | cc -E -,gcc libc6-dev,the floor in C)
	@$(for_bench)
	@$(for_refuse)
	@$(MAKE) -s $(BENCH_STAMP) || echo "make: going on without the peers" >&2
	@$(PY) -m benchmarks $(BENCH)

clean:  ## remove the environments and everything else that was made here
	rm -rf $(VENV) $(BENCH_VENV) $(REFUSE_VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV): $(STAMP)
$(BENCH_VENV): $(BENCH_STAMP)

ifneq ($(call whole,$(VENV)),yes)
.PHONY: $(STAMP)
endif
$(STAMP): pyproject.toml setup.py $(COMPILED)
	@$(for_compiling)
	@$(call venv,$(VENV))
	@$(PY) -m pip install $(PIP_FLAGS) -e '.[dev]'
	@echo "$(CURDIR)" > $@

$(FUZZ_STAMP): $(STAMP)
	@$(PY) -m pip install $(PIP_FLAGS) --only-binary atheris -e '.[fuzz]' || { \
		echo "make: fuzzing needs atheris, which cannot be installed here for $$($(PY) -V): it has" \
			"wheels for Linux, CPython 3.11 and some later versions; with another one:" \
			"make clean, then make fuzz PYTHON=python3.11" >&2; \
		exit 1; \
	}
	@touch $@

# $(call each,ENVIRONMENT,LIST): install what a list names, each by itself: one that cannot be
# installed keeps no other away.
define each
	grep -o '^[a-z][a-z0-9-]*' $(2) | while read -r name; do \
		log=$(1)/$$name.log; \
		if $(1)/bin/python -m pip install $(PIP_FLAGS) "$$(grep "^$$name\>[^-]" $(2))" \
				>$$log 2>&1 </dev/null; then \
			rm $$log; \
		else \
			echo "make: going on without $$name: see $$log" >&2; \
		fi; \
	done
endef

ifneq ($(call whole,$(BENCH_VENV)),yes)
.PHONY: $(BENCH_STAMP)
endif
$(BENCH_STAMP): benchmarks/peers.txt
	@$(call venv,$(BENCH_VENV))
	@$(call each,$(BENCH_VENV),benchmarks/peers.txt)
	@[ -d /$(EXAMPLES) ] || ( cd $(BENCH_VENV) && apt-get download -qq libfuse3-dev && \
		dpkg -x libfuse3-dev_*.deb libfuse3-dev ) || \
		echo "make: going on without the examples of libfuse" >&2
	@echo "$(CURDIR)" > $@

ifneq ($(call whole,$(REFUSE_VENV)),yes)
.PHONY: $(REFUSE_STAMP)
endif
$(REFUSE_STAMP): $(REFUSE_LIST)
	@$(call venv,$(REFUSE_VENV))
	@$(call each,$(REFUSE_VENV),$(REFUSE_LIST))
	@echo "$(CURDIR)" > $@

$(REFUSE_FULL): $(REFUSE_STAMP) $(REFUSE_LIST_FULL)
	@$(call each,$(REFUSE_VENV),$(REFUSE_LIST_FULL))
	@touch $@
