# s5cmd: cp, sync, ls, rm.
set -euo pipefail
s5cmd() { "$TOOLS/venv-data/bin/s5cmd" --endpoint-url "$ENDPOINT" "$@"; }
bucket=s5cmd-$SCHEME

s5cmd mb "s3://$bucket"
s5cmd cp --part-size 5 "$FILES/" "s3://$bucket/cp/"
s5cmd cp "s3://$bucket/cp/*" "$WORK/back/"
diff -r "$FILES" "$WORK/back"
s5cmd sync "s3://$bucket/cp/*" "s3://$bucket/synced/"
[ "$(s5cmd ls "s3://$bucket/synced/*" | wc -l)" -eq "$(ls "$FILES" | wc -l)" ]
s5cmd cat "s3://$bucket/synced/65537" | cmp - "$FILES/65537"
s5cmd rm "s3://$bucket/*"
s5cmd rb "s3://$bucket"
