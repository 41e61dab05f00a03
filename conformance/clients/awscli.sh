# The aws CLI: cp, sync, ls, range reads, copies, multi-delete, presigned URLs.
set -euo pipefail
aws() { "$TOOLS/venv/bin/aws" --endpoint-url "$ENDPOINT" "$@"; }
bucket=awscli-$SCHEME

# Without this the CLI presigns with SigV2, which Cairn does not speak.
export AWS_CONFIG_FILE=$WORK.config
printf '[default]\ns3 =\n  signature_version = s3v4\n' >"$AWS_CONFIG_FILE"

aws s3 mb "s3://$bucket"
for file in "$FILES"/*; do
    name=$(basename "$file")
    aws s3 cp --no-progress "$file" "s3://$bucket/cp/$name"
    aws s3 cp --no-progress "s3://$bucket/cp/$name" "$WORK/back"
    cmp "$file" "$WORK/back"
done
aws s3 sync --no-progress "$FILES" "s3://$bucket/sync/"
aws s3 sync --no-progress "s3://$bucket/sync/" "$WORK/synced"
diff -r "$FILES" "$WORK/synced"
aws s3 sync --no-progress "$FILES" "s3://$bucket/sync/" >"$WORK/again"
[ ! -s "$WORK/again" ]

aws s3api get-object --bucket "$bucket" --key cp/65537 --range bytes=65530-65536 "$WORK/range" >/dev/null
cmp <(tail -c 7 "$FILES/65537") "$WORK/range"
aws s3 cp --no-progress "s3://$bucket/cp/41943040" "s3://$bucket/copied"
aws s3 cp --no-progress "s3://$bucket/copied" "$WORK/back"
cmp "$FILES/41943040" "$WORK/back"

url=$(aws s3 presign "s3://$bucket/cp/65536")
curl -fsS ${AWS_CA_BUNDLE:+--cacert "$AWS_CA_BUNDLE"} "$url" | cmp - "$FILES/65536"
printf 'streamed' | aws s3 cp - "s3://$bucket/stdin"
[ "$(aws s3 cp "s3://$bucket/stdin" -)" = streamed ]

# Tags of a bucket, and what is written by one of them.
aws s3api get-bucket-tagging --bucket "$bucket" 2>/dev/null && exit 1
aws s3api put-bucket-tagging --bucket "$bucket" --tagging 'TagSet=[{Key=cairn:compression,Value=max},{Key=team,Value=a}]'
[ "$(aws s3api get-bucket-tagging --bucket "$bucket" --query 'TagSet[].Value' --output text)" = "$(printf 'max\ta')" ]
aws s3api put-bucket-tagging --bucket "$bucket" --tagging 'TagSet=[{Key=cairn:compression,Value=zip}]' 2>/dev/null && exit 1
aws s3 cp --no-progress "$0" "s3://$bucket/tagged"
aws s3 cp --no-progress "s3://$bucket/tagged" "$WORK/back"
cmp "$0" "$WORK/back"
aws s3 rm "s3://$bucket/tagged"
aws s3api delete-bucket-tagging --bucket "$bucket"

[ "$(aws s3 ls --recursive "s3://$bucket/cp/" | wc -l)" -eq "$(ls "$FILES" | wc -l)" ]
aws s3 rb "s3://$bucket" 2>/dev/null && exit 1
aws s3 rb --force "s3://$bucket"
