# SPDX-License-Identifier: Apache-2.0
#
# `make demo` and `make test` do everything on a fresh machine with Swift: they call Scripts/setup.sh first.

SWIFT ?= swift
# More options for every build, for example: make build SWIFT_BUILD_FLAGS='-Xswiftc -warnings-as-errors'
SWIFT_BUILD_FLAGS ?=
BUILD_FLAGS = --explicit-target-dependency-import-check error $(SWIFT_BUILD_FLAGS)
VSOCK = $(CURDIR)/.build/release/vsock
FORMATTED = Package.swift Sources Tests Examples Fuzzing/Package.swift Fuzzing/Sources

.PHONY: help setup build release demo test kernel-tests recovery isolation soak simulate bench gates differential fuzz \
	sanitize coverage docs lint format clean
# Two builds at once would wait for each other.
.NOTPARALLEL:

help:
	@echo 'make demo     install what is missing, build, show records and a stream crossing to a guest and back'
	@echo 'make test     install what is missing, build, run all tests'
	@echo 'make kernel-tests RUNS=3'
	@echo '              the kernel'\''s own vsock_test between guests, so often in a row, and against vsock test'
	@echo 'make differential SEED=1 CALLS=100000'
	@echo '              compare the sockets with those of Linux 6.12, by random calls'
	@echo 'make fuzz SECONDS=60 TARGET=wire'
	@echo '              throw inputs at one of the fuzz targets, or at all of them, for so many seconds each'
	@echo 'make sanitize the tests without guests under AddressSanitizer and ThreadSanitizer'
	@echo 'make coverage lines of the pure layers that their tests run, against their limit'
	@echo 'make recovery KILLS=100'
	@echo '              kill a device in the middle of traffic, and start it again'
	@echo 'make simulate SEED=1 SEEDS=100000'
	@echo '              run whole systems on virtual time, with faults drawn from seeds'
	@echo 'make isolation ATTACK_SECONDS=5 THREADS=2'
	@echo '              one hostile VM among three: what the others keep of their throughput'
	@echo 'make soak SECONDS=1800'
	@echo '              connects, closes and kills: memory and descriptors at the beginning and at the end'
	@echo 'make setup    only install what is missing'
	@echo 'make build    debug build, tests included'
	@echo 'make release  release build: .build/release/vsock'
	@echo 'make bench    release build; measure against the peer and plain sockets: Documentation/Performance.md'
	@echo 'make gates    release build; instructions and allocations per packet, against their limits'
	@echo 'make docs     documentation of the Swift API: .build/Vsock.doccarchive'
	@echo 'make lint     check the formatting'
	@echo 'make format   format'
	@echo 'make clean    remove what was built'

setup:
	@Scripts/setup.sh

build:
	$(SWIFT) build $(BUILD_FLAGS) --build-tests

release:
	$(SWIFT) build $(BUILD_FLAGS) -c release

demo: setup release
	$(VSOCK) demo

# VSOCK_PEER is rust-vmm's device, which the driver is tested with; without it that test is skipped, and the script says
# why it could not be had.
#
# The tests without guests run four at a time: all at once, as is the runner's way, they keep each other waiting for a
# minute on a small machine.
#
# The tests with real guests run the release build, as users do, with the kernels that this machine can boot, or those
# of VSOCK_KERNELS. They come last and one at a time: a guest is a load of its own. Their output comes line by line, so
# that it tells which of them hangs.
test: setup release
	VSOCK_COMMAND=$(VSOCK) VSOCK_PEER="$${VSOCK_PEER-$$(Scripts/fetch-peer.sh)}" \
		SWT_EXPERIMENTAL_MAXIMUM_PARALLELIZATION_WIDTH=4 \
		$(SWIFT) test $(BUILD_FLAGS) --skip '^GuestTests\.'
	VSOCK_COMMAND=$(VSOCK) VSOCK_KERNELS="$${VSOCK_KERNELS-$$(Scripts/setup.sh --kernels)}" \
		stdbuf -oL $(SWIFT) test $(BUILD_FLAGS) --skip-build --no-parallel --filter '^GuestTests\.'

# The kernel's own tests alone, each pair of guests several times in a row, with a line for each case.
RUNS ?= 3
kernel-tests: setup release build
	VSOCK_COMMAND=$(VSOCK) VSOCK_KERNELS="$${VSOCK_KERNELS-$$(Scripts/setup.sh --kernels)}" \
		VSOCK_KERNEL_TEST_RUNS=$(RUNS) \
		stdbuf -oL $(SWIFT) test $(BUILD_FLAGS) --skip-build --no-parallel \
		--filter '^GuestTests\.KernelTests'

# The compiler of documentation comes with Swift. The names that Vsock exports from lower layers belong to it.
docs: build
	Scripts/documentation.sh

# Random socket calls, on this package's loopback and on that of Linux in a guest.
SEED ?= 1
CALLS ?= 100000
differential: setup release
	$(CURDIR)/.build/release/differential --seed $(SEED) --calls $(CALLS)

# Says how long it took at most until the device could be used again.
KILLS ?= 100
recovery: release
	VSOCK_COMMAND=$(VSOCK) VSOCK_KILLS=$(KILLS) $(SWIFT) test $(BUILD_FLAGS) --filter '^VsockCommandTests\.RecoveryTests'

# The share of the throughput without an attack that two other VMs keep, for each attack. On a machine with nothing else
# to do, and with a processor for each of guests, programs and device. LOAD is what they send and receive each way, in
# MiB a second: as much as they can without it.
ATTACK_SECONDS ?= 5
THREADS ?= 2
isolation: release
	VSOCK_COMMAND=$(VSOCK) VSOCK_ATTACK_SECONDS=$(ATTACK_SECONDS) VSOCK_THREADS=$(THREADS) VSOCK_LOAD=$(LOAD) \
		$(SWIFT) test $(BUILD_FLAGS) --filter '^VsockCommandTests\.IsolationTests'

# Thirty minutes, unless SECONDS says otherwise.
soak: SECONDS = 1800
soak: release
	VSOCK_COMMAND=$(VSOCK) VSOCK_SOAK_SECONDS=$(SECONDS) $(SWIFT) test $(BUILD_FLAGS) \
		--filter '^VsockCommandTests\.SoakTests'

# Some minutes; `make bench BENCH='--quick'`, `make bench BENCH='--only streams'`.
bench: release
	VSOCK_COMMAND=$(VSOCK) Scripts/bench.py tables $(BENCH)

# Whole systems on virtual time, with faults: seeds from SEED on.
SEEDS ?= 100000
simulate: setup release
	$(VSOCK) simulate --seed $(SEED) --seeds $(SEEDS)

gates: setup release
	VSOCK_COMMAND=$(VSOCK) Scripts/bench.py gates

# wire, queue, vhost-user, session, hybrid, core, device; all of them unless TARGET names some.
SECONDS ?= 60
TARGET ?=
fuzz: setup
	Scripts/fuzz.sh $(SECONDS) $(TARGET)

sanitize: setup
	Scripts/sanitize.sh

coverage: setup
	Scripts/coverage.sh

lint:
	$(SWIFT) format lint --strict --parallel --recursive $(FORMATTED)

format:
	$(SWIFT) format --in-place --parallel --recursive $(FORMATTED)

clean:
	$(SWIFT) package clean
