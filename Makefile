test: test-fast

test-fast:
	cargo test --workspace --locked

.PHONY: test test-fast
