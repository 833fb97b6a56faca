#!/bin/sh
# The first process of a node, in network, mount, process, host name and IPC namespaces of its own: gives it directories
# and a /sys of its own, and then only reaps (pause). Services are started into its namespaces from outside.
#
#   node.sh NAME DIRECTORY VOLUMES PAUSE
set -eu
name=$1 directory=$2 volumes=$3 pause=$4
hostname "$name"

# /sys of this network namespace, with the control groups of the machine.
mkdir -p "$directory/cgroup"
mount --rbind /sys/fs/cgroup "$directory/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$directory/cgroup" /sys/fs/cgroup
umount -l "$directory/cgroup"
rmdir "$directory/cgroup"
# The kubelet hands mounts on to containers. Not before: the umount above would be handed on, too.
mount --make-rshared /

# The kubelet writes these for the whole machine where they differ: it is shown files that hold what it wants.
number=0
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  echo "${setting#*=}" >"$directory/configuration/sysctl-$number"
  mount --bind "$directory/configuration/sysctl-$number" "/proc/sys/${setting%=*}"
  number=$((number + 1))
done
# Both of the network namespace alone.
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables

mount --bind "$directory/log" /var/log
mkdir -p "$directory/lib/csihostpath" "$directory/lib/local"
mount --bind "$volumes" "$directory/lib/csihostpath"
mount --rbind "$directory/lib" /var/lib
# Short paths for sockets: at most 108 characters (unix(7)).
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/containerd /run/lock
: >"$directory/ready"
exec "$pause"
