#!/bin/bash
# What the agent descends from: NixOS's docker-preloader, written anew from its description in one paragraph. Mount each
# disk, link its layers, copy what docker notes about images, and fold the references together; docker starts after it.
# The arguments are the disks' labels. It is the baseline of the bench, so it starts no program that it can do without;
# its faults are part of it: it overwrites the user's references, and fails on a second run and on shared layers.
set -euo pipefail

docker=/var/lib/docker
mkdir -p "$docker/overlay2/l" "$docker/image/overlay2"
echo '{}' >/tmp/repositories.json

for label in "$@"; do
    disk=/mnt/docker-images/$label
    mkdir -p "$disk"
    mount -o ro,noload "/dev/disk/by-label/$label" "$disk"

    for layer in "$disk"/overlay2/*; do
        [ "${layer##*/}" = l ] || ln -s "$layer" "$docker/overlay2/"
    done
    for link in "$disk"/overlay2/l/*; do
        cp -P "$link" "$docker/overlay2/l/" # docker reads the link's own text
    done
    rsync -a "$disk/image/" "$docker/image/"

    jq -s '.[0] * .[1]' /tmp/repositories.json "$disk/image/overlay2/repositories.json" >/tmp/repositories.new
    mv /tmp/repositories.new /tmp/repositories.json
done

mv /tmp/repositories.json "$docker/image/overlay2/repositories.json"
