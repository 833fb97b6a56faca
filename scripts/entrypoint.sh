#!/bin/sh
# What the container image runs. As CDI's controller starts its importer or upload server (nothing but flags, and the
# environment), it is that pod; with anything else it is the command line. `exec`: signals reach the program itself.
home=/usr/lib/diskferry
case "$(basename "$0") ${1-}" in
  'diskferry '*) ;;
  'cdi-importer '* | *' importer') role=importer ;;
  'cdi-uploadserver '* | *' uploadserver') role=uploader/pod ;;
  'cdi-uploadproxy '* | *' uploadproxy') role=uploader/proxy ;;
  'cdi-controller '* | *' cdi-controller') role=controller ;;
  'cdi-apiserver '* | *' cdi-apiserver') role=apiserver ;;
  *' ' | *' -'*)
    if [ -n "${IMPORTER_SOURCE-}" ]; then role=importer; elif [ -n "${UPLOAD_IMAGE_SIZE-}" ]; then role=uploader/pod
    elif [ -n "${APISERVER_PUBLIC_KEY-}" ]; then role=uploader/proxy; fi
    ;;
esac
case "${role-}" in
  # What is known of a cluster is old space: it is collected well below the 256 MiB of the pod.
  controller) exec "$home/node" --max-old-space-size=176 "$home/dist/$role/main.js" ;;
  # Likewise of 256 MiB, of which 28 are of reviews that are being read, and as much again of their text.
  apiserver) exec "$home/node" --max-old-space-size=112 --max-semi-space-size=4 "$home/dist/$role/main.js" ;;
esac
if [ -n "${role-}" ]; then
  # As bin/diskferry.js has them (docs/adr/0003).
  exec "$home/node" --initial-old-space-size=512 --max-semi-space-size=1 "$home/dist/$role/main.js"
fi
exec "$home/node" "$home/bin/diskferry.js" "$@"
