#!/bin/bash
# node-kill.sh I : power node I off (SIGKILL to its pid 1: every process, mount and link in it goes with it)
set -euo pipefail
. "$(dirname "$0")/env.sh"
name=$PFX$1; u=$(cat "$DIR/run/$name.pid"); p=$(node_init_pid $name)
[ -n "$p" ] && kill -9 $p || true
[ "${2:-}" = keep ] || rm -f "$DIR/run/$name.pid"
while [ -d /proc/$u ] && ! grep -q 'State:.Z' /proc/$u/status; do sleep 0.05; done
# a rebooted machine has no old cgroups: left behind, each stale container costs cadvisor 3 s at the next start
for _ in $(seq 30); do
  left=0
  for c in $(cat "$DIR/run/$name.cgroups"); do
    [ -d "$c" ] || continue
    find "$c" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null || left=1
  done
  [ $left = 0 ] && break; sleep 0.1
done
