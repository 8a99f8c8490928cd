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
	tests/setup bench
	$(CARGO) build --release --locked $(PROGRAMS) -p wice-tests
	target/release/wice-bench

test:
	tests/setup test
	tests/suites

test-fast:
	tests/suites fmt clippy doc unit

# The manual pages and completions are what the programs say of themselves. Configuration of the system bus and units
# belong where the system looks for them, whatever the prefix is.
install: build
	install -D -m 0755 target/release/wice-agent $(DESTDIR)$(PREFIX)/sbin/wice-agent
	install -D -m 0755 target/release/wicectl $(DESTDIR)$(PREFIX)/bin/wicectl
	install -D -m 0755 target/release/wice-signal $(DESTDIR)$(PREFIX)/bin/wice-signal
	install -d -m 0755 $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man8
	target/release/wicectl --generate-man >$(DESTDIR)$(PREFIX)/share/man/man1/wicectl.1
	target/release/wice-agent --generate-man >$(DESTDIR)$(PREFIX)/share/man/man8/wice-agent.8
	target/release/wice-signal --generate-man >$(DESTDIR)$(PREFIX)/share/man/man8/wice-signal.8
	install -D -m 0644 packaging/man/wice.toml.5 $(DESTDIR)$(PREFIX)/share/man/man5/wice.toml.5
	install -d -m 0755 $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
	  $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	target/release/wicectl completions bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/wicectl
	target/release/wicectl completions zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_wicectl
	target/release/wicectl completions fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/wicectl.fish
	install -D -m 0644 packaging/org.wice.Wice1.conf $(DESTDIR)/usr/share/dbus-1/system.d/org.wice.Wice1.conf
	install -d -m 0755 $(DESTDIR)/usr/lib/systemd/system
	sed 's#^ExecStart=/usr/#ExecStart=$(PREFIX)/#' systemd/wice-agent.service >$(DESTDIR)/usr/lib/systemd/system/wice-agent.service
	sed 's#^ExecStart=/usr/#ExecStart=$(PREFIX)/#' systemd/wice-signal.service >$(DESTDIR)/usr/lib/systemd/system/wice-signal.service
	install -D -m 0644 packaging/org.wice.Wice1.policy $(DESTDIR)/usr/share/polkit-1/actions/org.wice.Wice1.policy
	install -D -m 0644 packaging/org.wice.Wice1.service $(DESTDIR)/usr/share/dbus-1/system-services/org.wice.Wice1.service
	install -D -m 0644 -t $(DESTDIR)/usr/share/dbus-1/interfaces packaging/dbus-interfaces/*.xml

.PHONY: help build demo bench test test-fast install
