#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the kernel's own programs for vsock (tools/testing/vsock) from the sources of a Debian package, which
# Scripts/setup.sh installs, and prints the directory that has them: vsock_test, and vsock_perf, which Linux 6.1 has not.
# They are kept under .build; nothing else of the sources is. Quick when they are newer than their sources.
#
#   Scripts/kernel-programs.sh 6.12
set -euo pipefail

fail() {
    printf 'kernel-programs: %s\n' "$*" >&2
    exit 1
}

[ $# = 1 ] || { echo "usage: $0 VERSION" >&2; exit 64; }
readonly version=$1
readonly sources=/usr/src/linux-source-$version.tar.xz
directory=$(cd "$(dirname "$0")/.." && pwd)/.build/kernel-programs/$version
readonly directory

[ -r "$sources" ] || fail "$sources is missing: apt-get install linux-source-$version"
if [ ! "$directory/vsock_test" -nt "$sources" ]; then
    compiler=$(command -v cc || command -v clang) || fail "there is no C compiler: apt-get install gcc"
    mkdir -p "$directory"
    work=$(mktemp -d "$directory/build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    tar -xJf "$sources" --strip-components=1 --wildcards '*/tools/testing/vsock' '*/tools/include'
    cd tools/testing/vsock
    shopt -s nullglob
    build() { "$compiler" -O2 -w -D_GNU_SOURCE -I. -I../../include -o "$@" msg_zerocopy_common*.c; }
    if [ -e vsock_perf.c ]; then
        build vsock_perf vsock_perf.c
        mv vsock_perf "$directory"
    fi
    build vsock_test vsock_test*.c control.c timeout.c util.c
    # The last one: it says that all are there.
    mv vsock_test "$directory"
fi
printf '%s\n' "$directory"
