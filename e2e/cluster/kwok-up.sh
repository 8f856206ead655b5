#!/bin/bash
# kwok-up.sh [COUNT]: COUNT fake nodes (default 1000) beside the real ones; their pods are played, not run.
. "$(dirname "$0")/env.sh"; cd "$K"
C=${1:-1000}; T0=$(now)
if [ ! -e run/kwok.pid ]; then
  setsid nohup $BIN/kwok --kubeconfig "$KUBECONFIG" --config "$BIN/kwok-stages.yaml" --manage-all-nodes=false --manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake \
    --cidr 10.245.0.0/16 --node-ip 10.246.0.1 --node-lease-duration-seconds 40 --server-address 127.0.0.1:10347 -v ERROR ${KWOK_ARGS:-} >log/kwok.log 2>&1 </dev/null &
  echo $! > run/kwok.pid
fi
python3 - $C <<'P' | kubectl create -f - >/dev/null
import sys, json
items=[{"apiVersion":"v1","kind":"Node","metadata":{"name":f"fake-{i}","annotations":{"kwok.x-k8s.io/node":"fake","node.alpha.kubernetes.io/ttl":"0"},
 "labels":{"type":"kwok","kubernetes.io/hostname":f"fake-{i}","kubernetes.io/os":"linux","kubernetes.io/arch":"amd64"}},
 "spec":{"taints":[{"key":"kwok.x-k8s.io/node","value":"fake","effect":"NoSchedule"}]},
 "status":{"allocatable":{"cpu":"32","memory":"256Gi","pods":"110"},"capacity":{"cpu":"32","memory":"256Gi","pods":"110"},
 "nodeInfo":{"kubeletVersion":"kwok","operatingSystem":"linux","architecture":"amd64","bootID":"","containerRuntimeVersion":"","kernelVersion":"","kubeProxyVersion":"","machineID":"","osImage":"","systemUUID":""},"phase":"Running"}} for i in range(int(sys.argv[1]))]
print(json.dumps({"apiVersion":"v1","kind":"List","items":items}))
P
say "$C nodes created"
for _ in $(seq 240); do
  [ $(kubectl get nodes -l type=kwok --no-headers 2>/dev/null | grep -c ' Ready') = $C ] && { say "$C fake nodes Ready"; exit 0; }
  kill -0 $(cat run/kwok.pid) || { tail -3 log/kwok.log; exit 1; }; sleep 0.5
done; echo "not all Ready"; exit 1
