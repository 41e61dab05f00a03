exec "${RUST_SDK_CLIENT:-${CARGO_TARGET_DIR:-$REAL_HOME/.cache/cairn}/release/rust-sdk-client}"
