# restic: init, backup, a second backup, forget --prune, check --read-data, restore.
set -euo pipefail
export RESTIC_REPOSITORY=s3:$ENDPOINT/restic-$SCHEME RESTIC_PASSWORD=secret RESTIC_CACHE_DIR=$WORK/cache
restic() { command restic ${AWS_CA_BUNDLE:+--cacert "$AWS_CA_BUNDLE"} "$@"; }

restic init
cp -r "$FILES" "$WORK/tree"
(cd "$WORK" && restic backup tree)
head -c 3000000 /dev/urandom >"$WORK/tree/more"
rm "$WORK/tree/65537"
(cd "$WORK" && restic backup tree)
restic check --read-data
restic forget --keep-last 1 --prune
restic check --read-data
restic restore latest --target "$WORK/restored"
diff -r "$WORK/tree" "$WORK/restored/tree"
