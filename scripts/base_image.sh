#!/usr/bin/env bash
# Make a base image with Python 3.11 from Debian bookworm, for machines that reach no container registry:
#   scripts/base_image.sh [name]
# Packages come from the mirror that this machine's apt uses; outside Debian, from debootstrap's own default.
set -euo pipefail
name="${1:-eager-llm/base:bookworm}"
command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install debootstrap" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "debootstrap needs root" >&2; exit 1; }
mirror=()
if command -v apt-get >/dev/null; then
  mirror=("$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 2>/dev/null |
    awk '$1 == "bookworm" && $2 == "main" {print $3; exit}')")
  [ -n "${mirror[0]}" ] || mirror=()
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
debootstrap --variant=minbase --include=python3,ca-certificates bookworm "$work/root" "${mirror[@]}" >"$work/log" ||
  { tail -20 "$work/log" >&2; exit 1; }
# What apt keeps for itself, and logs of this build, are no part of a base.
rm -rf "$work"/root/var/cache/apt/* "$work"/root/var/lib/apt/lists/* "$work"/root/var/log/* \
  "$work"/root/usr/share/{doc,man,locale}/* "$work"/root/debootstrap
tar -C "$work/root" --numeric-owner --sort=name -c . | docker import --change 'CMD ["python3"]' - "$name" >/dev/null
docker image inspect --format "$name  {{.Size}} bytes" "$name"
