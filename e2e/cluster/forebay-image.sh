#!/bin/bash
# forebay-image.sh OUT.tar BINARY... : the image forebay:dev from built binaries, without a daemon. They go into /usr/bin,
# stripped, with the loader and the libraries that they name.
set -euo pipefail
K=$(cd "$(dirname "$0")" && pwd)
out=$1; shift
t=$(mktemp -d); trap 'rm -rf "$t"' EXIT
files=()
for b; do
  objcopy --strip-debug "$b" "$t/$(basename "$b")"
  files+=("$t/$(basename "$b")=/usr/bin/$(basename "$b")")
done
for l in $(ldd "$@" | sed -nE 's#^.*[[:space:]](/[^ ]+) \(0x.*#\1#p' | sort -u); do files+=("$l=$l"); done
c=/etc/ssl/certs/ca-certificates.crt
if [ -f $c ]; then files+=("$c=$c"); fi
WORKUSER=65532:65532 bash "$K/image.sh" library/forebay:dev "$out" '["/usr/bin/forebay"]' "${files[@]}"
