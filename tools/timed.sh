#!/bin/sh
# timed.sh NAME COMMAND...: runs the command and prints how long it took.
set -u
name=$1
shift
began=$(date +%s)
"$@"
code=$?
took=$(($(date +%s) - began))
if [ "$code" -eq 0 ]; then word=passed; else word=FAILED; fi
printf '== %-28s %s in %d s\n' "$name" "$word" "$took"
exit "$code"
