# Two commands do it all on a fresh Debian machine with Swift: `make demo` and `make test`.
# What is missing is installed by apt-get when root; otherwise the exact line to type is printed.

SWIFT ?= swift
# Static: the binaries run in a bare initramfs, and start five times as fast. Linked by lld, which keeps what is
# executed apart from what is read: 3 MiB less of a process is resident than with the default linker's layout; and what a
# start touches side by side: 2 MiB less again.
START_ORDER := -Xlinker '--symbol-ordering-file=$(CURDIR)/scripts/start-order.txt' -Xlinker --no-warn-symbol-ordering
# Generic types come from their accessors: by their mangled names a start searches all conformances for each of them, a
# twentieth of its time.
DIRECT := -Xswiftc -Xfrontend -Xswiftc -disable-concrete-type-metadata-mangled-name-accessors
# Only sections can be placed: one for each function and constant.
SECTIONS := -Xswiftc -Xfrontend -Xswiftc -function-sections -Xswiftc -Xllvm -Xswiftc -data-sections
RELEASE := -c release --scratch-path .build-static $(SECTIONS) $(DIRECT) -Xswiftc -static-executable -Xswiftc -use-ld=lld $(START_ORDER)

# What CI holds our own targets to, and nobody who depends on us.
STRICT := $(if $(CI),-Xswiftc -warnings-as-errors --explicit-target-dependency-import-check error)

SHELL := /bin/bash -o pipefail
.PHONY: demo build history export test test-asan fuzz fuzz-coverage inject guest module lint bench-loop bench-start bench-scrape bench-check \
	examples install uninstall deb tarball clean clean-cache always

demo: build
	build/vmtally demo

build: build/vmtally build/vmtally-probe

# `vmtally history` is a program of its own, with GRDB and SQLite in it: a minute or two of building.
history: build
	@scripts/require history
	$(SWIFT) build --package-path History $(RELEASE:.build-static=.build-history) 2>&1 | \
		grep -v 'statically linked applications requires\|mktemp.* is dangerous'
	strip -o build/vmtally-history .build-history/release/vmtally-history

# So is `vmtally export`, with SwiftNIO in it.
export: build
	@scripts/require build
	$(SWIFT) build --package-path Exporter $(RELEASE:.build-static=.build-export) --product vmtally-export 2>&1 | \
		grep -v 'statically linked applications requires\|mktemp.* is dangerous'
	strip -o build/vmtally-export .build-export/release/vmtally-export

# Ten million inputs for each target that a hostile file or guest can reach: Tests/FuzzTests. Optimised, with the checks
# of raw buffers that debug builds have.
INPUTS ?= 10000000
fuzz:
	VMTALLY_FUZZ=$(INPUTS) $(SWIFT) test -c release --scratch-path .build-fuzz -Xswiftc -enable-testing \
		-Xswiftc -assert-config -Xswiftc Debug --filter FuzzTests

# Each system call of a run fails once, in each way: docs/reliability.md.
inject: build
	scripts/inject

# The same parts by what their code does with an input: libFuzzer, which keeps each input that reaches something new.
# TARGET is one of those in Tests/FuzzCoverage/FuzzTargets.swift. A crash leaves its input in build/fuzz.
TARGET ?= elf
SECONDS ?= 60
fuzz-coverage:
	VMTALLY_FUZZ_COVERAGE=1 $(SWIFT) build -c release --scratch-path .build-fuzz-coverage -Xswiftc -enable-testing \
		-Xswiftc -assert-config -Xswiftc Debug -Xswiftc -sanitize=fuzzer -Xswiftc -parse-as-library --product vmtally-fuzz
	mkdir -p build/fuzz/$(TARGET)
	cp -n $(wildcard Tests/FuzzTests/Corpus/$(TARGET)*) Tests/FuzzTests/Corpus/elf-guest build/fuzz/$(TARGET)/
	VMTALLY_FUZZ_TARGET=$(TARGET) .build-fuzz-coverage/release/vmtally-fuzz -artifact_prefix=build/fuzz/ \
		-max_total_time=$(SECONDS) -timeout=60 -rss_limit_mb=2048 -print_final_stats=1 build/fuzz/$(TARGET)

# All tests with AddressSanitizer; ThreadSanitizer: docs/reliability.md.
test-asan: guest build/vmtally-fidelity
	$(SWIFT) test --scratch-path .build-asan --sanitize=address --skip CodegenTests --skip LabTests

# The other packages are built on what the first has built. SwiftPM would take the plan of one for that of the next, also where
# a test has failed.
FORGET := rm -f .build/debug/description.json
TEST_PACKAGE := trap "$(FORGET)" EXIT; $(FORGET); $(SWIFT) test $(STRICT) --scratch-path .build --package-path

# What the lab's emulated hosts run: the checks of our counts against KVM's own.
test: guest build/vmtally-fidelity
	@scripts/require test
	@Lab/run --prepare svm vmx || [ -z "$$CI" ]
	$(SWIFT) test $(STRICT)
	@scripts/require history
	$(TEST_PACKAGE) History
	@scripts/require export
	$(TEST_PACKAGE) Exporter

# Copied, for strip writes here and there: written in a row a program lies in the page cache in large pieces, of which a start
# takes a fifth less time and 1.4 MiB less (docs/performance.md).
# The linker's warnings about dlopen and getpwnam in static programs concern calls that are never made.
build/%: always
	@scripts/require build
	@mkdir -p build
	$(SWIFT) build $(RELEASE) --product $* 2>&1 | grep -v 'statically linked applications requires\|mktemp.* is dangerous'
	strip -o $@.part .build-static/release/$*
	cp $@.part $@.copy && mv $@.copy $@ && rm $@.part

# Without a C library, so that it runs in any initramfs.
build/vmtally-probe: always
	@mkdir -p build
	guest-probe/Linux/build $@

# A Debian kernel and an initramfs to run with `vmtally run --kernel build/guest/vmlinuz --initrd build/guest/initrd`.
guest: build
	scripts/guest

# The loadable module for the kernel that runs: build/module/vmtally.ko. Loading it, and the next kernels: see
# kernel-module/install.
module:
	kernel-module/build --headers /lib/modules/$$(uname -r)/build --output build/module

# What the exit path costs, and how fast and small we start: docs/performance.md. Results go to Benchmarks/results.
bench-loop: build/vmtally-benchmarks
	build/vmtally-benchmarks loop accounting

bench-start: build build/vmtally-benchmarks
	build/vmtally-benchmarks start

# What a scrape of `vmtally export` takes with 1,000 VMs: docs/fleet.md.
bench-scrape: build/vmtally-benchmarks
	build/vmtally-benchmarks scrape

# Fails when a figure is above its target with 95 % certainty; leaves the recorded results as they are.
bench-check: build build/vmtally-benchmarks
	build/vmtally-benchmarks --check loop accounting start scrape

# Builds and runs what is in Examples.
examples: build
	@scripts/require examples
	PATH="$(CURDIR)/build:$$PATH" Examples/check

# Packaging/README.md: what lies where. Root need not build: `make history export`, then `sudo make install`.
PREFIX ?= /usr/local
staged = $(if $(and $(wildcard build/vmtally),$(wildcard build/vmtally-history)),,history) \
	$(if $(wildcard build/vmtally-export),,export)
install: $(staged)
	Packaging/stage build/stage
	install -m 755 Packaging/install.sh build/stage/
	build/stage/install.sh --prefix $(PREFIX) $(if $(DESTDIR),--destdir $(DESTDIR))

uninstall:
	Packaging/install.sh --uninstall --prefix $(PREFIX) $(if $(DESTDIR),--destdir $(DESTDIR))

# Debian packages, and the same programs for everybody else: build/deb and build/vmtally-*.tar.gz.
deb: history export
	Packaging/deb

tarball: history export
	Packaging/tarball

# What strangers build on has a documentation comment for each public declaration.
documented := Sources/KVM Sources/ExitStats Sources/BootRecords
lint:
	$(SWIFT) format lint --strict --recursive Package.swift Sources Tests Plugins guest-probe Benchmarks History Exporter
	$(SWIFT) format lint --strict --recursive $(documented) --configuration \
		"$$(sed 's/"rules": {/&"AllPublicDeclarationsHaveDocumentation": true,/' .swift-format)"

clean:
	rm -rf .build .build-static .build-asan .build-fuzz .build-fuzz-coverage .build-history .build-export .build-manual build

# What the lab, the guest and the packages' tests have fetched: kernels, and the chroots of Packaging/try.
clean-cache:
	rm -rf "$${VMTALLY_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/vmtally}"
