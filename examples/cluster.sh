#!/bin/sh
# diskferry on this machine alone: a real Kubernetes with it, a DataVolume that is filled, and its bytes read by another program.
#
#   examples/cluster.sh                   as root, after npm ci; some minutes the first time, else one
#   npm run cluster:down -- --wipe        ends and forgets it
set -eu
cd "$(dirname "$0")/.."
name=${DISKFERRY_CLUSTER_NAME:-diskferry}
cluster=${DISKFERRY_CLUSTER:-${XDG_CACHE_HOME:-$HOME/.cache}/diskferry/cluster/$name}
kubectl() { "$cluster/kubectl" --namespace default "$@"; }

say() { printf '\n== %s\n' "$*"; }

say 'a Kubernetes on this machine'
[ -e "$cluster/up.json" ] || npm run --silent cluster:up

say 'a DataVolume'
cat examples/datavolume-http.yaml
kubectl delete --ignore-not-found pod/example-look datavolume/example-http
kubectl apply -f examples/datavolume-http.yaml

say 'how it comes along'
timeout 120 "$cluster/kubectl" --namespace default get datavolume example-http --watch &
watch=$!
kubectl wait --for='jsonpath={.status.phase}=Succeeded' --timeout=120s datavolume/example-http >/dev/null
kill "$watch"
kubectl events --for datavolume/example-http

say 'the bytes on the volume, by a pod that has nothing but busybox'
kubectl apply -f - <<'POD'
apiVersion: v1
kind: Pod
metadata:
  name: example-look
spec:
  restartPolicy: Never
  containers:
    - name: look
      image: registry.test/box:1
      command: [sh, -c, 'head -c 67108864 /data/disk.img | sha256sum']
      volumeMounts: [{ name: disk, mountPath: /data }]
  volumes:
    - name: disk
      persistentVolumeClaim: { claimName: example-http }
POD
kubectl wait --for='jsonpath={.status.phase}=Succeeded' --timeout=120s pod/example-look >/dev/null
found=$(kubectl logs example-look | cut -c 1-64)
wanted=$(cut -c 1-64 "$cluster/site/example.raw.sha256")
printf 'on the volume  %s\nof the image   %s\n' "$found" "$wanted"
[ "$found" = "$wanted" ]

say "it is there: $cluster/kubectl get datavolumes,pvc,pv; other DataVolumes: examples/*.yaml"
