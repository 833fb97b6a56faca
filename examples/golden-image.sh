#!/bin/sh
# Puts a Debian cloud image into a libvirt storage pool, verified against the publisher's list of digests. Machines see it
# only when it is complete. Run it again after anything that cut it: it goes on where it was.
set -eu

release=${1:-https://cloud.debian.org/images/cloud/bookworm/latest}
name=${2:-debian-12-genericcloud-amd64.qcow2}
pool=${3:-/var/lib/libvirt/images}

image="$pool/${name%.qcow2}.img"
if [ -e "$image" ]; then
  echo "$image is there already"
  exit 0
fi
diskferry import "$release/$name" "$pool/.$name.part" --digests "$release/SHA512SUMS"
mv "$pool/.$name.part" "$image"
