# The targets that people use; what they do is in tests/setup, tests/suites and the crates.

DESTDIR =
PREFIX = /usr/local
CARGO = cargo
PROGRAMS = -p wice-agent -p wicectl -p wice-signal
# For smaller machines: FEATURES='--no-default-features --features http,websocket'
FEATURES =
PROFILE = release
BUILT = target/$(PROFILE)
UNITDIR = /usr/lib/systemd/system
ZSHDIR = site-functions
SHARE = $(DESTDIR)$(PREFIX)/share
MAN = $(SHARE)/man

help:
	@echo 'make demo       watch a tunnel come up through two NATs (root, about 10 s once built)'
	@echo 'make test       everything that continuous integration runs (root, up to 45 min on two cores)'
	@echo 'make test-fast  format, lints, documentation, unit and integration tests (no root)'
	@echo 'make bench      how long a connection takes, and what a thousand peers and a cluster cost (root, half an hour once built)'
	@echo 'make build      the three programs, optimized'
	@echo 'make install    installs them; DESTDIR= and PREFIX= as usual'
	@echo 'make deb, rpm   packages for distributions, in target/package'

# What is installed or packaged names its commit; what is only tried is not compiled anew for each.
build install deb rpm: export WICE_COMMIT := $(shell git rev-parse HEAD 2>/dev/null)
build:
	$(CARGO) build --profile $(PROFILE) --locked $(PROGRAMS) $(FEATURES)

demo:
	tests/setup demo
	$(CARGO) build --release --locked $(PROGRAMS) -p wice-tests
	target/release/wice-demo

bench:
	tests/setup bench
	$(CARGO) build --release --locked $(PROGRAMS) -p wice-tests
	target/release/wice-bench
	tests/setup test
	tests/kubernetes/bench

test:
	tests/setup test
	tests/suites

test-fast:
	tests/suites fmt clippy doc unit

# The manual pages and completions are what the programs say of themselves. Configuration of the system bus and units
# belong where the system looks for them, whatever the prefix is; existing configuration is left alone.
install: build install-files

install-files:
	install -D -m 0755 $(BUILT)/wice-agent $(DESTDIR)$(PREFIX)/sbin/wice-agent
	install -D -m 0755 $(BUILT)/wicectl $(DESTDIR)$(PREFIX)/bin/wicectl
	install -D -m 0755 $(BUILT)/wice-signal $(DESTDIR)$(PREFIX)/bin/wice-signal
	install -d -m 0755 $(MAN)/man1 $(MAN)/man5 $(MAN)/man8
	$(BUILT)/wicectl --generate-man >$(MAN)/man1/wicectl.1
	$(BUILT)/wice-agent --generate-man >$(MAN)/man8/wice-agent.8
	$(BUILT)/wice-signal --generate-man >$(MAN)/man8/wice-signal.8
	install -m 0644 packaging/man/wice.toml.5 $(MAN)/man5/wice.toml.5
	install -d -m 0755 $(SHARE)/bash-completion/completions $(SHARE)/zsh/$(ZSHDIR) $(SHARE)/fish/vendor_completions.d
	$(BUILT)/wicectl completions bash >$(SHARE)/bash-completion/completions/wicectl
	$(BUILT)/wicectl completions zsh >$(SHARE)/zsh/$(ZSHDIR)/_wicectl
	$(BUILT)/wicectl completions fish >$(SHARE)/fish/vendor_completions.d/wicectl.fish
	install -D -m 0644 packaging/org.wice.Wice1.conf $(DESTDIR)/usr/share/dbus-1/system.d/org.wice.Wice1.conf
	install -d -m 0755 $(DESTDIR)$(UNITDIR)
	sed 's#^\(Exec[A-Za-z]*\)=/usr/#\1=$(PREFIX)/#' systemd/wice-agent.service >$(DESTDIR)$(UNITDIR)/wice-agent.service
	sed 's#^\(Exec[A-Za-z]*\)=/usr/#\1=$(PREFIX)/#' systemd/wice-signal.service >$(DESTDIR)$(UNITDIR)/wice-signal.service
	install -D -m 0644 systemd/wice-signal.socket $(DESTDIR)$(UNITDIR)/wice-signal.socket
	install -D -m 0644 systemd/wice.sysusers $(DESTDIR)/usr/lib/sysusers.d/wice.conf
	install -D -m 0644 systemd/wice.tmpfiles $(DESTDIR)/usr/lib/tmpfiles.d/wice.conf
	install -D -m 0644 systemd/wice.preset $(DESTDIR)/usr/lib/systemd/system-preset/50-wice.preset
	install -D -m 0644 systemd/wice-signal.preset $(DESTDIR)/usr/lib/systemd/system-preset/50-wice-signal.preset
	install -D -m 0644 packaging/org.wice.Wice1.policy $(DESTDIR)/usr/share/polkit-1/actions/org.wice.Wice1.policy
	install -D -m 0644 packaging/org.wice.Wice1.service $(DESTDIR)/usr/share/dbus-1/system-services/org.wice.Wice1.service
	install -D -m 0644 -t $(DESTDIR)/usr/share/dbus-1/interfaces packaging/dbus-interfaces/*.xml
	install -d -m 0755 $(DESTDIR)/etc/wice
	test -e $(DESTDIR)/etc/wice/wice.toml || install -m 0644 packaging/wice.toml $(DESTDIR)/etc/wice/wice.toml
	test -e $(DESTDIR)/etc/wice/signal.env || install -m 0644 packaging/signal.env $(DESTDIR)/etc/wice/signal.env
	install -D -m 0644 -t $(SHARE)/doc/wice README.md CHANGELOG.md docs/dbus.md docs/metrics.md docs/protocol.md
	install -D -m 0644 -t $(SHARE)/doc/wice/examples packaging/examples/* packaging/prometheus/*
	install -D -m 0644 -t $(SHARE)/doc/wice-signal docs/metrics.md docs/protocol.md

install-notices:
	install -D -m 0644 -t $(SHARE)/doc/wice target/package/notices/wice/*
	install -D -m 0644 -t $(SHARE)/doc/wice-signal target/package/notices/wice-signal/*

# Packages are built from the profile `dist`: small and slow to build. PROFILE=release is for trying the packaging itself.
deb rpm: PROFILE = dist
deb: package-tools build notices
	packaging/deb $(PROFILE)

rpm: package-tools build notices
	packaging/rpm $(PROFILE)

package-tools:
	tests/setup package

# What goes into the programs from elsewhere: licences and a bill of materials.
notices:
	FEATURES='$(FEATURES)' packaging/notices

.PHONY: help build demo bench test test-fast install install-files install-notices deb rpm package-tools notices
