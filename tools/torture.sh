#!/bin/sh
# torture.sh KILLS IMAGES FLIPS: the durability tests against bin/cairn. See tools/torture/README.md.
set -eu
cd "$(dirname "$0")/.."
kills=$1 images=$2 flips=$3

target=${CARGO_TARGET_DIR:-target}
cargo build --workspace --release --locked --ignore-rust-version
programs=$target/release
work=$(mktemp -d "${TMPDIR:-/tmp}/cairn-torture.XXXXXX")

run() {
    name=$1
    shift
    echo "torture $name:"
    "$programs/torture" "$name" --binary bin/cairn --work "$work/$name" "$@"
}
run kill --kills "$kills"
run crash --images "$images" --recorder "$programs/libsynctrace.so"
run flip --flips "$flips"
# What failed stays for a look.
rm -rf "$work"
