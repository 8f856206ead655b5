#!/bin/bash
# node-start.sh I : start (or start again) node I
set -euo pipefail
. "$(dirname "$0")/env.sh"
i=$1 name=$PFX$1 veth=$PFX${1}v; mkdir -p "$DIR/nodes/$name" "$DIR/log"
for d in $NODE_DIRS; do mkdir -p $d; done     # mount points
cgs=
for h in /sys/fs/cgroup/*/; do
  up=${h%/}$(own_cg $h); up=${up%/}; c=$up/$name; mkdir -p $c; cgs="$cgs $c"
  if [ -e $up/cpuset.cpus ]; then cat $up/cpuset.cpus > $c/cpuset.cpus; cat $up/cpuset.mems > $c/cpuset.mems; fi
done
echo $cgs > "$DIR/run/$name.cgroups"
# a subshell joins the node's cgroups and only then makes the cgroup namespace
( for c in $cgs; do echo $BASHPID > $c/cgroup.procs; done
  exec setsid unshare --mount --propagation private --uts --ipc --net --pid --cgroup --fork --kill-child \
    bash "$K/node.sh" $i >"$DIR/log/$name.log" 2>&1 </dev/null ) &
echo $! > "$DIR/run/$name.pid"
until p=$(node_init_pid $name) && [ -n "$p" ]; do sleep 0.02; done
ip link add $veth type veth peer name eth0 netns $p
ip link set $veth master $BR up
ip route replace $PODNET.$i.0/24 via $NET.1$i dev $BR
