#!/usr/bin/env bash
# A base image of Debian's packages alone, for where no image registry can be reached; as root.
#
#   deploy/container/base.sh [localhost/debian-base]
#
# Needs debootstrap and buildah. MIRROR is where Debian's packages are.
set -euo pipefail
NAME=${1:-localhost/debian-base} SUITE=${SUITE:-bookworm}
FOLDER=$(mktemp -d)
trap 'rm -rf "$FOLDER"' EXIT
debootstrap --variant=minbase "$SUITE" "$FOLDER/root" "${MIRROR:-http://deb.debian.org/debian}"
rm -rf "$FOLDER"/root/var/cache/apt/archives/*.deb "$FOLDER"/root/var/lib/apt/lists/*
container=$(buildah from scratch)
buildah add --quiet "$container" "$FOLDER/root" /
buildah config --cmd /bin/bash "$container"
buildah commit --quiet --rm "$container" "$NAME"
echo "$NAME"
