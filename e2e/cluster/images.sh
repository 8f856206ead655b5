#!/bin/bash
# The images of the test cluster, from locally built static binaries.
set -euo pipefail
. "$(dirname "$0")/env.sh"
mkdir -p "$DIR/img"
im() { [ "$DIR/img/$2.tar" -nt "$5" ] 2>/dev/null || bash "$K/image.sh" "local/$2:1" "$DIR/img/$2.tar" "$3" "${@:4}"; }
links=$(busybox --list | grep -vx busybox | sed 's#.*#/bin/busybox:/bin/&#')
[ -f "$DIR/img/pause.tar" ] || bash "$K/image.sh" local/pause:1 "$DIR/img/pause.tar" '["/bin/pause"]' "$BIN/pause=/bin/pause"
[ -f "$DIR/img/busybox.tar" ] || LINKS="$links" bash "$K/image.sh" local/busybox:1 "$DIR/img/busybox.tar" '["/bin/sh"]' "$(command -v busybox)=/bin/busybox" "$BIN/httpget=/bin/httpget"
# an image for the project's own binaries is made the same way: image.sh NAME OUT ENTRYPOINT FILE=PATH ...
# (a dynamically linked binary needs its loader and libraries too: see README.md)
