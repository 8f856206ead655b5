#!/bin/bash
# A default StorageClass with twenty local volumes of each node: nothing provisions, so they are there beforehand.
set -euo pipefail
. "$(dirname "$0")/env.sh"
{
cat <<Y
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
Y
for n in $(seq $N); do for i in $(seq 20); do
  mkdir -p "$DIR/nodes/$PFX$n/srv/pv$i"
  cat <<Y
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: local-$PFX$n-$i}
spec:
  capacity: {storage: 20Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: local
  persistentVolumeReclaimPolicy: Retain
  local: {path: /srv/pv$i}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$PFX$n]}]}]}}
Y
done; done
} | kubectl apply -f - >/dev/null
