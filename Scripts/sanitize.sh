#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The tests without guests under AddressSanitizer and under ThreadSanitizer, each in a build of its own.
#
#   Scripts/sanitize.sh [address] [thread]
set -euo pipefail
cd "$(dirname "$0")/.."
sanitizers=("$@")
[ $# -gt 0 ] || sanitizers=(address thread)
# With its own backtraces Swift hangs after a crash under a sanitizer.
export SWIFT_BACKTRACE=enable=no SWT_EXPERIMENTAL_MAXIMUM_PARALLELIZATION_WIDTH=4

for sanitizer in "${sanitizers[@]}"; do
    case $sanitizer in
    address) export ASAN_OPTIONS=detect_leaks=1 ;;
    thread) export TSAN_OPTIONS=halt_on_error=0 ;;
    *)
        echo "usage: Scripts/sanitize.sh [address] [thread]" >&2
        exit 64
        ;;
    esac
    log=.build/$sanitizer.log
    mkdir -p .build
    # The programs that are measured or booted are those of the release build, and need no second look here.
    swift test --sanitize="$sanitizer" --scratch-path ".build/$sanitizer" --skip "${SANITIZE_SKIP:-^GuestTests\\.}" \
        2>&1 | grep -v 'Cannot export local symbol' | tee "$log" | grep -E '^(✔ Test run|✘|↳|error:|warning: )' || true
    if grep -qE 'ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer' "$log"; then
        grep -nE -A 20 'ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer' "$log" | head -n 100 >&2
        echo "Reports of $sanitizer: $log" >&2
        exit 1
    fi
    grep -q '^✔ Test run' "$log" || {
        echo "Tests fail under $sanitizer: $log" >&2
        exit 1
    }
done
