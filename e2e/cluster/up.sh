#!/bin/bash
# Brings up: etcd, apiserver, controller-manager, scheduler, coredns on the host; N nodes in namespaces.
set -euo pipefail
. "$(dirname "$0")/env.sh"
mkdir -p "$DIR"; cd "$DIR"; mkdir -p run conf log nodes
[ -e run/apiserver.pid ] && { echo "already up? run down.sh first"; exit 1; }
bash "$K/certs.sh"; bash "$K/images.sh"; say "certificates, images"

start() { # name command...
  local n=$1; shift
  setsid nohup "$@" >log/$n.log 2>&1 </dev/null & echo $! > run/$n.pid
}
# --- network of the nodes (no iptables rule and no forwarding in the host namespace)
ip link add $BR type bridge; ip addr add $NET.1/24 dev $BR; ip link set $BR up

# --- control plane
rm -rf etcd; mkdir etcd
if [ "${ETCD_TMPFS:-1}" = 1 ]; then mount -t tmpfs -o size=2g etcd "$DIR/etcd"; fi
start etcd $ETCD --data-dir "$DIR/etcd/d" --listen-client-urls http://127.0.0.1:$ETCDPORT --advertise-client-urls http://127.0.0.1:$ETCDPORT \
  --listen-peer-urls http://127.0.0.1:$((ETCDPORT+1)) --quota-backend-bytes 1500000000 ${ETCD_ARGS:-}
start apiserver $BIN/kube-apiserver --etcd-servers http://127.0.0.1:$ETCDPORT --bind-address $NET.1 --advertise-address $NET.1 --secure-port $APIPORT \
  --client-ca-file $CERTS/ca.crt --tls-cert-file $CERTS/apiserver.crt --tls-private-key-file $CERTS/apiserver.key \
  --kubelet-client-certificate $CERTS/kubelet-client.crt --kubelet-client-key $CERTS/kubelet-client.key \
  --service-account-issuer https://kubernetes.default.svc --service-account-key-file $CERTS/sa.pub --service-account-signing-key-file $CERTS/sa.key \
  --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --service-cluster-ip-range $SVCCIDR --allow-privileged --kubelet-preferred-address-types InternalIP \
  --feature-gates=MutatingAdmissionPolicy=true --runtime-config=admissionregistration.k8s.io/v1beta1=true \
  --enable-aggregator-routing --default-not-ready-toleration-seconds 8 --default-unreachable-toleration-seconds 8 ${APISERVER_ARGS:-}
start kcm $BIN/kube-controller-manager --kubeconfig $CERTS/kcm.kubeconfig --leader-elect=false --use-service-account-credentials --kube-api-qps 300 --kube-api-burst 600 \
  --service-account-private-key-file $CERTS/sa.key --root-ca-file $CERTS/ca.crt --cluster-signing-cert-file $CERTS/ca.crt --cluster-signing-key-file $CERTS/ca.key \
  --node-monitor-period ${MONITOR:-1s} --node-monitor-grace-period ${GRACE:-12s} --bind-address 127.0.0.1 --secure-port 12257 ${CONTROLLER_ARGS:-}
start scheduler $BIN/kube-scheduler --kubeconfig $CERTS/scheduler.kubeconfig --leader-elect=false --bind-address 127.0.0.1 --secure-port 12259 ${SCHEDULER_ARGS:-}
say "control plane processes started"

# --- node configuration
cat > conf/containerd.toml <<Y
version = 2
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/local/pause:1"
  stream_server_address = "127.0.0.1"
  restrict_oom_score_adj = true   # without CAP_SYS_RESOURCE a negative oom_score_adj makes runc fail
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
Y
cat > conf/kubelet.yaml <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $CERTS/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDNS: [$NET.1]
clusterDomain: cluster.local
resolvConf: $DIR/conf/resolv.conf
rotateCertificates: false
nodeLeaseDurationSeconds: 8
nodeStatusUpdateFrequency: 4s
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
syncFrequency: 10s
volumeStatsAggPeriod: 10s
registryPullQPS: 0
serializeImagePulls: false
maxPods: 110
logging: {format: text}
Y
: > conf/resolv.conf
cat > conf/proxy.yaml <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: $PROXYMODE
clusterCIDR: $PODNET.0.0/16
clientConnection: {kubeconfig: $CERTS/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
iptables: {minSyncPeriod: 200ms}
Y
for i in $(seq $N); do bash "$K/node-start.sh" $i; done
# the host reaches services through node 1's kube-proxy
ip route replace $SVCCIDR via $NET.11 dev $BR
say "$N node namespaces started"

until kubectl get --raw /readyz >/dev/null 2>&1; do sleep 0.1; done; say "apiserver ready"
kubectl apply -f "$K/base.yaml" >/dev/null; say "base objects (coredns RBAC)"
if [ -x $BIN/coredns ]; then
  cat > conf/Corefile <<Y
.:53 {
  bind $NET.1
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $CERTS/dns.kubeconfig
    pods insecure
    ttl 5
  }
  cache 5
}
Y
  start coredns $BIN/coredns -conf conf/Corefile
fi
for i in $(seq $N); do until kubectl get node $PFX$i >/dev/null 2>&1; do sleep 0.1; done; done; say "$N nodes registered"
kubectl wait --for=condition=Ready node --all --timeout=120s >/dev/null; say "$N nodes Ready"
until kubectl get serviceaccount default >/dev/null 2>&1; do sleep 0.1; done; say "default service account there: cluster usable"
