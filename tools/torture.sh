#!/bin/sh
# torture.sh KILLS IMAGES FLIPS STEPS: the durability tests against bin/cairn; STEPS is sample or all. See
# tools/torture/README.md.
set -eu
cd "$(dirname "$0")/.."
kills=$1 images=$2 flips=$3 steps=$4

target=${CARGO_TARGET_DIR:-target}
cargo build --workspace --release --locked --ignore-rust-version
programs=$target/release
work=$(mktemp -d "${TMPDIR:-/tmp}/cairn-torture.XXXXXX")
# A killed process loses nothing that it wrote, on whatever file system: a thousand starts are faster in memory.
memory=/dev/shm
[ -w "$memory" ] || memory=${TMPDIR:-/tmp}
fast=$(mktemp -d "$memory/cairn-torture.XXXXXX")

run() {
    name=$1
    shift
    echo "torture $name:"
    "$programs/torture" "$name" --binary bin/cairn "$@"
}
run kill --work "$work/kill" --kills "$kills"
run crash --work "$work/crash" --images "$images" --recorder "$programs/libsynctrace.so"
run flip --work "$work/flip" --flips "$flips"
case $steps in
sample) run steps --work "$fast/steps" --recorder "$programs/libsynctrace.so" --sample ;;
all) run steps --work "$fast/steps" --recorder "$programs/libsynctrace.so" ;;
*) echo "torture.sh: STEPS is sample or all" >&2 && exit 2 ;;
esac
# What failed stays for a look.
rm -rf "$work" "$fast"
