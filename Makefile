# Two commands do it all on a fresh Debian machine with Swift: `make demo` and `make test`.
# What is missing is installed by apt-get when root; otherwise the exact line to type is printed.

SWIFT ?= swift
# Static: the binaries run in a bare initramfs, and start five times as fast.
RELEASE := -c release --scratch-path .build-static -Xswiftc -static-executable

.PHONY: guest demo build test lint bench-loop clean

demo: build
	build/vmtally demo

build:
	@scripts/require build
	$(SWIFT) build $(RELEASE) --product vmtally
	@mkdir -p build
	@llvm-strip -o build/vmtally .build-static/release/vmtally 2>/dev/null || strip -o build/vmtally .build-static/release/vmtally

test: build
	@scripts/require test
	$(SWIFT) test

# A Debian kernel and an initramfs to run with `vmtally run --kernel build/guest/vmlinuz --initrd build/guest/initrd`.
guest: build
	scripts/guest

lint:
	$(SWIFT) format lint --strict --recursive Package.swift Sources Tests Plugins guest-probe

clean:
	rm -rf .build .build-static build
