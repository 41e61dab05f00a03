# s5cmd: cp with wildcards, sync, mv, cat, pipe, ls, du, head, presign, run, rm.
set -euo pipefail
s5cmd() { "$TOOLS/venv-data/bin/s5cmd" --endpoint-url "$ENDPOINT" "$@"; }
bucket=s5cmd-$SCHEME
# Reads all of its input, unlike `grep -q`, which would break the pipe of a client that still writes.
has() { [ "$(grep -c -- "$1")" -gt 0 ]; }
count() { s5cmd ls "$1" | grep -c . || true; }
files=$(ls "$FILES" | wc -l)
bytes=$(ls "$FILES" | awk '{ sum += $1 } END { print sum }')

s5cmd mb "s3://$bucket"
s5cmd ls | has " s3://$bucket"
s5cmd cp --part-size 5 "$FILES/" "s3://$bucket/cp/"
s5cmd cp --part-size 5 --concurrency 3 "s3://$bucket/cp/*" "$WORK/back/"
diff -r "$FILES" "$WORK/back"
[ "$(count "s3://$bucket/cp/*")" -eq "$files" ]
[ "$(count "s3://$bucket/cp/6553?")" -eq 3 ]
s5cmd cp --exclude '*5*' "s3://$bucket/cp/*" "$WORK/some/"
diff <(ls "$FILES" | grep -v 5) <(ls "$WORK/some")
s5cmd du "s3://$bucket/cp/*" | has "^$bytes bytes in $files objects"

# From bucket to bucket, then from here with what is gone here removed there.
s5cmd sync "s3://$bucket/cp/*" "s3://$bucket/synced/"
for file in "$FILES"/*; do
    s5cmd cat "s3://$bucket/synced/$(basename "$file")" | cmp - "$file"
done
rm "$WORK/back/65535"
printf changed >"$WORK/back/1"
s5cmd sync --delete "$WORK/back/" "s3://$bucket/synced/"
[ "$(count "s3://$bucket/synced/*")" -eq $((files - 1)) ]
[ "$(s5cmd cat "s3://$bucket/synced/1")" = changed ]
[ -z "$(s5cmd sync --size-only "$WORK/back/" "s3://$bucket/synced/")" ]

s5cmd cp --metadata colour=blue --content-type text/x-test "$FILES/65536" "s3://$bucket/one+é"
s5cmd head "s3://$bucket/one+é" >"$WORK/head"
grep -q '"colour":"blue"' <(tr A-Z a-z <"$WORK/head")
grep -q '"content_type":"text/x-test"' "$WORK/head"
s5cmd mv "s3://$bucket/one+é" "s3://$bucket/moved"
s5cmd cat "s3://$bucket/moved" | cmp - "$FILES/65536"
s5cmd head "s3://$bucket/one+é" 2>/dev/null && exit 1
s5cmd mv "s3://$bucket/moved" "$WORK/moved"
cmp "$WORK/moved" "$FILES/65536"
[ "$(count "s3://$bucket/mov*" 2>/dev/null)" -eq 0 ]

s5cmd pipe "s3://$bucket/piped" <"$FILES/5242881"
url=$(s5cmd presign --expire 1m "s3://$bucket/piped")
curl -fsS ${AWS_CA_BUNDLE:+--cacert "$AWS_CA_BUNDLE"} "$url" | cmp - "$FILES/5242881"
s5cmd cat "s3://$bucket/never" >/dev/null 2>&1 && exit 1

# A list of commands, as it is used to move many small objects.
for number in $(seq 300); do
    printf '%s' "$number" >"$WORK/some/n$number"
    echo "cp $WORK/some/n$number s3://$bucket/run/$((number % 7))/$number"
done >"$WORK/commands"
s5cmd run "$WORK/commands"
[ "$(count "s3://$bucket/run/*")" -eq 300 ]
[ "$(s5cmd cat "s3://$bucket/run/5/299")" = 299 ]
s5cmd rm "s3://$bucket/run/3/*" "s3://$bucket/run/4/4"
[ "$(count "s3://$bucket/run/*")" -eq 256 ]
s5cmd rb "s3://$bucket" 2>/dev/null && exit 1
s5cmd rm "s3://$bucket/*"
[ "$(count "s3://$bucket" 2>/dev/null)" -eq 0 ]
s5cmd rb "s3://$bucket"
