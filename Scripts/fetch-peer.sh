#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Prints the path of vhost-device-vsock, the vsock device of the rust-vmm project, which tests and benchmarks run as a
# peer. If it is not installed, its package is taken from Debian unstable, from the mirror that apt is set up with, and
# unpacked under .build: nothing is installed, and nobody has to be root. Status 1, with the reason, when it cannot be
# had. Quick when it is there.
set -euo pipefail

readonly program=vhost-device-vsock
readonly keyring=/usr/share/keyrings/debian-archive-keyring.gpg
directory=$(cd "$(dirname "$0")/.." && pwd)/.build/peers
readonly directory

fail() {
    printf 'fetch-peer: %s cannot be had: %s\n' "$program" "$*" >&2
    exit 1
}

# A program of a newer distribution may not run here.
print_if_it_runs() {
    "$1" --version >/dev/null 2>&1 || return 1
    printf '%s\n' "$1"
}

for place in "$(command -v "$program" || true)" "$directory/usr/bin/$program"; do
    if [ -x "$place" ] && print_if_it_runs "$place"; then exit; fi
done

command -v apt-get >/dev/null || fail "there is no apt here"
[ -r "$keyring" ] || fail "$keyring is missing: the package debian-archive-keyring has it"
# The mirror of the distribution's own packages, not that of its security updates.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 -E '/debian/?$') ||
    fail "apt is set up with no Debian mirror"

# Lists and packages of its own, so that apt's are left as they are.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
printf 'deb [signed-by=%s] %s sid main\n' "$keyring" "$mirror" >"$work/sources"
own_apt() {
    apt-get -qq -o Dir::Etc::SourceList="$work/sources" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o Debug::NoLocking=true \
        -o APT::Sandbox::User=root -o Acquire::Retries=2 "$@" >&2
}
own_apt update || fail "the package lists of Debian unstable could not be fetched"
(cd "$work" && own_apt download "$program") || fail "its package could not be fetched"
dpkg --extract "$work/$program"_*.deb "$work/root"
mkdir -p "$directory"
cp -R "$work/root/." "$directory"
print_if_it_runs "$directory/usr/bin/$program" || fail "that of Debian unstable does not run here"
