#!/bin/bash
# program-image.sh NAME:TAG OUT.tar BINARY [DIR [BINARY...]]: an image of built programs, without a daemon: they go into DIR
# (/bin), stripped, with the loader and the libraries that they name. The first one is what it runs. WORKUSER as for image.sh.
set -euo pipefail
K=$(cd "$(dirname "$0")" && pwd)
name=$1 out=$2 first=$3 dir=${4:-/bin}; shift 3; shift || true
t=$(mktemp -d); trap 'rm -rf "$t"' EXIT
files=()
for b in "$first" "$@"; do
  p=$(basename "$b")
  objcopy --strip-debug "$b" "$t/$p" 2>/dev/null || cp "$b" "$t/$p"
  files+=("$t/$p=$dir/$p")
done
for l in $(ldd "$first" "$@" 2>/dev/null | sed -nE 's#^.*[[:space:]](/[^ ]+) \(0x.*#\1#p' | sort -u); do files+=("$l=$l"); done
c=/etc/ssl/certs/ca-certificates.crt
if [ -f $c ]; then files+=("$c=$c"); fi
bash "$K/image.sh" "$name" "$out" "[\"$dir/$(basename "$first")\"]" "${files[@]}"
