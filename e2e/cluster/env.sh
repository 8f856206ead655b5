# Shared settings. Nothing is written beside the scripts: what is built goes into BIN and stays, what runs goes below DIR.
K=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/forebay}
BIN=${BIN:-$CACHE/kubernetes}              # binaries of Kubernetes and of what goes with it (build.sh)
DIR=${DIR:-$CACHE/cluster}                 # this cluster: keys, images, configuration, logs, nodes' disks
N=${N:-3}                                  # number of real nodes
NET=${NET:-10.89.0}                        # node network; host (control plane) is .1, node i is .1i
PODNET=${PODNET:-10.244}                   # node i owns $PODNET.i.0/24
SVCCIDR=${SVCCIDR:-10.96.0.0/16}
PFX=${PFX:-kn}                             # node names: kn1, kn2, ...
BR=${BR:-kbr0}
PROXYMODE=${PROXYMODE:-iptables}
ETCD=${ETCD:-etcd}                         # Debian's 3.4 works; or a newer binary
ETCDPORT=${ETCDPORT:-12379}
APIPORT=${APIPORT:-6443}
CERTS=$DIR/pki
export KUBECONFIG=$DIR/admin.kubeconfig
# directories that every node gets for itself (bind-mounted inside its mount namespace)
NODE_DIRS="/var/lib/kubelet /var/lib/containerd /var/lib/cni /var/log/pods /var/log/containers /etc/cni/net.d /srv /mnt /var/lib/forebay"
now() { date +%s.%N; }
T0=${T0:-$(now)}
say() { printf '%7.2fs %s\n' "$(echo "$(now) - $T0" | bc)" "$*"; }
node_init_pid() { # pid (seen from the host) of node $1's pid 1
  local u; u=$(cat "$DIR/run/$1.pid" 2>/dev/null) || return 1
  cat "/proc/$u/task/$u/children" 2>/dev/null | tr -d ' '
}
# run a command inside node $1 (all its namespaces)
on_node() { local p; p=$(node_init_pid "$1"); shift; nsenter -t "$p" -m -u -i -n -p -C -- "$@"; }
# The cgroup of the calling shell in hierarchy folder $1 (below /sys/fs/cgroup): nodes get a child of it,
# so that limits and accounting of whoever started us keep holding.
own_cg() {
  local h; h=$(basename "$1")
  case $h in
    unified) awk -F: '$1==0 {print $3}' /proc/self/cgroup ;;
    systemd) awk -F: '$2=="name=systemd" {print $3}' /proc/self/cgroup ;;
    *) awk -F: -v c=$h '{n=split($2,a,","); for(k=1;k<=n;k++) if(a[k]==c) {print $3; exit}}' /proc/self/cgroup ;;
  esac
}
