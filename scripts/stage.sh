#!/bin/sh
# Puts what the container image holds of a built checkout into a directory: the programs, the engine, Node; no packages.
#
#   scripts/stage.sh DIRECTORY
set -eu
cd "$(dirname "$0")/.."
out=$1
rm -rf "$out"
mkdir -p "$out/bin" "$out/native"
cp -R dist package.json LICENSE "$out/"
find "$out/dist" -name '*.map' -delete
cp bin/diskferry.js "$out/bin/"
cp native/diskferry-*.node "$out/native/"
cp native/imageserver-linux-* "$out/imageserver"
cp node_modules/node/bin/node "$out/node"
cp scripts/entrypoint.sh "$out/entrypoint"
ln -s entrypoint "$out/diskferry"
chmod -R a+rX,go-w "$out"
chmod 0755 "$out/entrypoint" "$out/node" "$out/imageserver"
