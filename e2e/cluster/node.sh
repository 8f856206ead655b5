#!/bin/bash
# PID 1 of one node, started by up.sh inside new mount, uts, ipc, net, pid and cgroup namespaces.
set -euo pipefail
. "$(dirname "$0")/env.sh"
i=$1 name=$PFX$1 dir=$DIR/nodes/$PFX$1
hostname $name
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
# cgroup v1 as this node sees it: in a cgroup namespace each hierarchy's root is the node's own cgroup
mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
for c in $(awk '$1!~/^#/ && $4==1 && $2!=0 {print $1}' /proc/cgroups); do
  mkdir /sys/fs/cgroup/$c; mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c
done
mkdir /sys/fs/cgroup/systemd; mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
mount -t tmpfs -o mode=755 run /run; mkdir -p /run/lock
for d in $NODE_DIRS; do mkdir -p $dir$d; mount --bind $dir$d $d; done
mount --make-rshared /                     # new peer groups, inside this namespace only
# network: wait for the host to move eth0 in
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip link set lo up; ip addr add $NET.1$i/24 dev eth0; ip link set eth0 up
ip route add default via $NET.1
for j in $(seq $N); do [ $j = $i ] || ip route add $PODNET.$j.0/24 via $NET.1$j; done
echo 1 > /proc/sys/net/ipv4/ip_forward
cat > /etc/cni/net.d/10-k.conflist <<J
{"cniVersion":"0.4.0","name":"k","plugins":[
 {"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":false,"hairpinMode":true,
  "ipam":{"type":"host-local","ranges":[[{"subnet":"$PODNET.$i.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
 {"type":"portmap","capabilities":{"portMappings":true}}]}
J
L=$dir/log; mkdir -p $L
containerd --config $DIR/conf/containerd.toml >$L/containerd.log 2>&1 &
echo $! > /run/containerd.pid0
until ctr version >/dev/null 2>&1; do sleep 0.05; done
for t in $DIR/img/*.tar; do
  ctr -n k8s.io images import --all-platforms $t >>$L/import.log 2>&1 || ctr -n k8s.io images import $t >>$L/import.log 2>&1
done
$BIN/kubelet --config $DIR/conf/kubelet.yaml --kubeconfig $CERTS/$name.kubeconfig --node-ip $NET.1$i \
  ${KUBELET_ARGS:-} -v=${V:-1} >$L/kubelet.log 2>&1 &
echo $! > /run/kubelet.pid0
$BIN/kube-proxy --config $DIR/conf/proxy.yaml --hostname-override $name -v=1 >$L/proxy.log 2>&1 &
echo $! > /run/proxy.pid0
trap 'exit 0' TERM
while :; do wait -n || true; sleep 0.2; done   # reap; the node lives until it is killed
