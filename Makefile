# The targets that people use; what they do is in tests/setup, tests/suites and the crates.

DESTDIR =
PREFIX = /usr/local
CARGO = cargo
PROGRAMS = -p wice-agent -p wicectl -p wice-signal

help:
	@echo 'make demo       watch a tunnel come up through two NATs (root, about 10 s once built)'
	@echo 'make test       everything that continuous integration runs (root, up to 45 min on two cores)'
	@echo 'make test-fast  format, lints, documentation, unit and integration tests (no root)'
	@echo 'make bench      how long a connection takes, and what a thousand peers cost (root, 3 min once built)'
	@echo 'make build      the three programs, optimized'
	@echo 'make install    installs them; DESTDIR= and PREFIX= as usual'

build:
	$(CARGO) build --release --locked $(PROGRAMS)

demo:
	tests/setup demo
	$(CARGO) build --release --locked $(PROGRAMS) -p wice-tests
	target/release/wice-demo

bench:
	tests/setup demo
	$(CARGO) build --release --locked $(PROGRAMS) -p wice-tests
	target/release/wice-bench

test:
	tests/setup test
	tests/suites

test-fast:
	tests/suites fmt clippy doc unit

install: build
	install -D -m 0755 target/release/wice-agent $(DESTDIR)$(PREFIX)/sbin/wice-agent
	install -D -m 0755 target/release/wicectl $(DESTDIR)$(PREFIX)/bin/wicectl
	install -D -m 0755 target/release/wice-signal $(DESTDIR)$(PREFIX)/bin/wice-signal
	install -D -m 0644 packaging/org.wice.Wice1.conf $(DESTDIR)/usr/share/dbus-1/system.d/org.wice.Wice1.conf

.PHONY: help build demo bench test test-fast install
