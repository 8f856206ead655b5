#!/bin/bash
# Takes everything down again; leaves $BIN/, img/ and pki/ (CLEAN=1 removes pki and img too).
set -uo pipefail
. "$(dirname "$0")/env.sh"
mkdir -p "$DIR"; cd "$DIR"
for f in run/$PFX*.pid; do
  [ -e "$f" ] || continue
  n=$(basename $f .pid); i=${n#$PFX}; bash "$K/node-kill.sh" $i
done
for n in coredns scheduler kcm apiserver etcd; do
  [ -e run/$n.pid ] || continue
  p=$(cat run/$n.pid)
  if tr '\0' ' ' < /proc/$p/cmdline 2>/dev/null | grep -qE 'kube|etcd|coredns'; then
    kill -9 $p 2>/dev/null; for _ in $(seq 50); do grep -qs 'State:.[^Z]' /proc/$p/status || break; sleep 0.05; done   # throw-away: no graceful end
  fi
  rm -f run/$n.pid
done
for _ in $(seq 50); do mountpoint -q etcd || break; umount etcd 2>/dev/null || sleep 0.1; done; rm -rf etcd   # a zombie leader can have threads still ending
ip route del $SVCCIDR 2>/dev/null
for v in $(ip -o link show type veth 2>/dev/null | awk -F'[ :@]+' '{print $2}' | grep "^$PFX[0-9]*v$"); do ip link del $v 2>/dev/null; done
ip link del $BR 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do
  left=0
  for c in $(cat run/*.cgroups 2>/dev/null); do
    [ -d "$c" ] || continue
    find "$c" -depth -type d -exec rmdir {} + 2>/dev/null; [ -d "$c" ] && left=1
  done
  [ $left = 0 ] && break; sleep 0.3
done
rm -rf nodes run conf log/$PFX*.log
[ "${CLEAN:-0}" = 1 ] && rm -rf pki img admin.kubeconfig
[ $left = 0 ] || { echo "some cgroups could not be removed"; exit 1; }
echo down
