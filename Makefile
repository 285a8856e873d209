# Two commands do it all on a fresh Debian machine with Swift: `make demo` and `make test`.
# What is missing is installed by apt-get when root; otherwise the exact line to type is printed.

SWIFT ?= swift
# Static: the binaries run in a bare initramfs, and start five times as fast.
RELEASE := -c release --scratch-path .build-static -Xswiftc -static-executable

SHELL := /bin/bash -o pipefail
.PHONY: demo build test guest lint clean always

demo: build
	build/vmtally demo

build: build/vmtally

# What the lab's emulated hosts run: the checks of our counts against KVM's own.
test: build/vmtally build/vmtally-fidelity
	@scripts/require test
	$(SWIFT) test

# The linker's warnings about dlopen and getpwnam in static programs concern calls that are never made.
build/%: always
	@scripts/require build
	@mkdir -p build
	$(SWIFT) build $(RELEASE) --product $* 2>&1 | grep -v 'statically linked applications requires\|mktemp.* is dangerous'
	strip -o $@ .build-static/release/$*

# A Debian kernel and an initramfs to run with `vmtally run --kernel build/guest/vmlinuz --initrd build/guest/initrd`.
guest: build
	scripts/guest

lint:
	$(SWIFT) format lint --strict --recursive Package.swift Sources Tests Plugins guest-probe

clean:
	rm -rf .build .build-static build
