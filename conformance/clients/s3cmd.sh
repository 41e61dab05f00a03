# s3cmd: put and get, multipart, metadata, sync both ways, cp, mv, modify, ls, du, info, uploads left open, del.
set -euo pipefail
host=${ENDPOINT#*://}
s3cmd() {
    command s3cmd --config "$WORK.s3cfg" --no-progress "$@"
}
cat >"$WORK.s3cfg" <<END
[default]
access_key = $AWS_ACCESS_KEY_ID
secret_key = $AWS_SECRET_ACCESS_KEY
host_base = $host
host_bucket = $host
use_https = $([ "$SCHEME" = https ] && echo True || echo False)
ca_certs_file = ${AWS_CA_BUNDLE:-}
multipart_chunk_size_mb = 5
END
bucket=s3cmd-$SCHEME
files=$(ls "$FILES" | wc -l)
bytes=$(ls "$FILES" | awk '{ sum += $1 } END { print sum }')
# Reads all of its input, unlike `grep -q`, which would break the pipe of a client that still writes.
has() { [ "$(grep -c -- "$1")" -gt 0 ]; }
names() { s3cmd ls --recursive "s3://$bucket/$1" | awk '{ print $4 }' | sed "s#^s3://$bucket/##" | sort; }

s3cmd mb "s3://$bucket"
s3cmd ls | has "s3://$bucket\$"
for file in "$FILES"/*; do
    s3cmd put "$file" "s3://$bucket/put/$(basename "$file")"
    s3cmd get --force "s3://$bucket/put/$(basename "$file")" "$WORK/back"
    cmp "$file" "$WORK/back"
done
[ "$(s3cmd ls "s3://$bucket/put/" | awk '{ print $3 }' | sort -n)" = "$(ls "$FILES" | sort -n)" ]
[ "$(s3cmd du "s3://$bucket/put/" | awk '{ print $1 }')" -eq "$bytes" ]

# A get goes on where a broken one stopped.
head -c 100 "$FILES/65536" >"$WORK/begun"
s3cmd get --continue "s3://$bucket/put/65536" "$WORK/begun"
cmp "$FILES/65536" "$WORK/begun"

s3cmd sync "$FILES/" "s3://$bucket/sync/"
s3cmd sync "s3://$bucket/sync/" "$WORK/synced/"
diff -r "$FILES" "$WORK/synced"
# With nothing changed nothing is sent; what is gone here goes there.
[ "$(s3cmd sync --dry-run "$FILES/" "s3://$bucket/sync/" | grep -c ^upload:)" -eq 0 ]
rm "$WORK/synced/65535"
printf changed >"$WORK/synced/1"
s3cmd sync --delete-removed "$WORK/synced/" "s3://$bucket/sync/"
[ "$(names sync/ | grep -c .)" -eq "$(ls "$WORK/synced" | grep -c .)" ]
[ "$(s3cmd get "s3://$bucket/sync/1" -)" = changed ]

s3cmd put --add-header x-amz-meta-colour:blue --mime-type text/x-test "$FILES/65536" "s3://$bucket/with meta+é"
s3cmd info "s3://$bucket/with meta+é" >"$WORK/info"
grep -q 'File size: *65536' "$WORK/info"
grep -q 'MIME type: *text/x-test' "$WORK/info"
grep -q 'x-amz-meta-colour: *blue' "$WORK/info"
grep -q "MD5 sum: *$(md5sum <"$FILES/65536" | cut -c1-32)" "$WORK/info"
s3cmd info "s3://$bucket" >"$WORK/info"
grep -q "Location: *$AWS_REGION" "$WORK/info"
s3cmd modify --add-header x-amz-meta-colour:red "s3://$bucket/with meta+é"
s3cmd info "s3://$bucket/with meta+é" | has 'x-amz-meta-colour: *red'

s3cmd cp "s3://$bucket/with meta+é" "s3://$bucket/copied"
s3cmd info "s3://$bucket/copied" | has 'x-amz-meta-colour: *red'
s3cmd mv "s3://$bucket/copied" "s3://$bucket/moved"
s3cmd get --force "s3://$bucket/moved" "$WORK/back"
cmp "$FILES/65536" "$WORK/back"
s3cmd info "s3://$bucket/copied" 2>/dev/null && exit 1
s3cmd cp --recursive "s3://$bucket/put/" "s3://$bucket/tree/"
mkdir "$WORK/tree"
s3cmd get --recursive "s3://$bucket/tree/" "$WORK/tree/"
diff -r "$FILES" "$WORK/tree"

[ "$(s3cmd multipart "s3://$bucket" | grep -c "s3://$bucket/.")" -eq 0 ]
s3cmd del "s3://$bucket/moved"
names "" | has '^moved$' && exit 1
s3cmd rb "s3://$bucket" 2>/dev/null && exit 1
s3cmd del --recursive --force "s3://$bucket"
[ -z "$(names "")" ]
s3cmd rb "s3://$bucket"
