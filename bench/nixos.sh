#!/bin/bash
# What the agent descends from: NixOS's docker-preloader, written anew from its description in one paragraph. Mount each
# disk, link its layers, copy what docker notes about images, and fold the references together; docker starts after it.
# The arguments are the disks' labels. It is the baseline of the bench, so it starts no program that it can do without,
# and one fault is mended, without which no container would run today: a layer's directory is real and writable, and
# its `diff` alone a link. Its other faults are part of it: it overwrites the user's references, takes a disk at its
# word, and fails on a second run and on layers that two disks share.
set -euo pipefail

docker=/var/lib/docker
mkdir -p "$docker"
echo '{}' >/tmp/repositories.json

for label in "$@"; do
    disk=/mnt/docker-images/$label
    mkdir -p "$disk"
    mount -o ro,noload "/dev/disk/by-label/$label" "$disk"

    rsync -a --exclude='/overlay2/*/diff' "$disk/overlay2" "$disk/image" "$docker/"
    for layer in "$disk"/overlay2/*/diff; do
        ln -s "$layer" "$docker${layer#"$disk"}"
    done

    jq -s '.[0] * .[1]' /tmp/repositories.json "$disk/image/overlay2/repositories.json" >/tmp/repositories.new
    mv /tmp/repositories.new /tmp/repositories.json
done

mv /tmp/repositories.json "$docker/image/overlay2/repositories.json"
