# rclone: copy, sync, check, with multipart uploads above 5 MiB.
set -euo pipefail
export RCLONE_CONFIG_CAIRN_TYPE=s3 RCLONE_CONFIG_CAIRN_PROVIDER=Other RCLONE_CONFIG_CAIRN_ENDPOINT=$ENDPOINT
export RCLONE_CONFIG_CAIRN_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID RCLONE_CONFIG_CAIRN_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY
export RCLONE_CA_CERT=${AWS_CA_BUNDLE:-} RCLONE_CONFIG=$WORK/rclone.conf RCLONE_S3_UPLOAD_CUTOFF=5M
[ -n "$RCLONE_CA_CERT" ] || unset RCLONE_CA_CERT
# Its S3 library would take the bundle from here too, and cannot put it into the transport of rclone.
unset AWS_CA_BUNDLE
touch "$RCLONE_CONFIG"
bucket=rclone-$SCHEME

rclone mkdir "cairn:$bucket"
rclone copy "$FILES" "cairn:$bucket/copy"
rclone check --download "$FILES" "cairn:$bucket/copy"
rclone sync "cairn:$bucket/copy" "cairn:$bucket/server-side"
rclone check --download "$FILES" "cairn:$bucket/server-side"
mkdir "$WORK/some" && cp "$FILES/1" "$FILES/65536" "$WORK/some"
rclone sync "$WORK/some" "cairn:$bucket/copy"
[ "$(rclone lsf "cairn:$bucket/copy" | wc -l)" -eq 2 ]
rclone check "$WORK/some" "cairn:$bucket/copy"
rclone purge "cairn:$bucket"
