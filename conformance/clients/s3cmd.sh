# s3cmd: put, multipart put, get, sync, ls, del.
set -euo pipefail
host=${ENDPOINT#*://}
s3cmd() {
    command s3cmd --config /dev/null --host "$host" --host-bucket "$host" --access_key "$AWS_ACCESS_KEY_ID" \
        --secret_key "$AWS_SECRET_ACCESS_KEY" --no-progress ${tls[@]+"${tls[@]}"} "$@"
}
tls=(--no-ssl)
[ "$SCHEME" = http ] || tls=(--ssl --ca-certs "$AWS_CA_BUNDLE")
bucket=s3cmd-$SCHEME

s3cmd mb "s3://$bucket"
for file in "$FILES"/*; do
    s3cmd put --multipart-chunk-size-mb 5 "$file" "s3://$bucket/put/$(basename "$file")"
    s3cmd get --force "s3://$bucket/put/$(basename "$file")" "$WORK/back"
    cmp "$file" "$WORK/back"
done
s3cmd sync "$FILES/" "s3://$bucket/sync/"
s3cmd sync "s3://$bucket/sync/" "$WORK/synced/"
diff -r "$FILES" "$WORK/synced"
s3cmd cp "s3://$bucket/put/65536" "s3://$bucket/copied"
[ "$(s3cmd ls "s3://$bucket/put/" | wc -l)" -eq "$(ls "$FILES" | wc -l)" ]
s3cmd del --recursive --force "s3://$bucket"
s3cmd rb "s3://$bucket"
