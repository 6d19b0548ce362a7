#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The tests without guests under AddressSanitizer and under ThreadSanitizer, each in a build of its own.
#
#   Scripts/sanitize.sh [address] [thread]
#
#   SANITIZE_FILTER=REGEX   only the tests whose names match
set -euo pipefail
cd "$(dirname "$0")/.."
sanitizers=("$@")
[ $# -gt 0 ] || sanitizers=(address thread)
# With its own backtraces Swift hangs after a crash under a sanitizer.
export SWIFT_BACKTRACE=enable=no SWT_EXPERIMENTAL_MAXIMUM_PARALLELIZATION_WIDTH=4

for sanitizer in "${sanitizers[@]}"; do
    case $sanitizer in address | thread) ;; *)
        echo "usage: Scripts/sanitize.sh [address] [thread]" >&2
        exit 64
        ;;
    esac
    log=.build/$sanitizer.log preload=
    options=(--sanitize="$sanitizer" --scratch-path ".build/$sanitizer")
    mkdir -p .build
    swift build "${options[@]}" --build-tests 2>&1 | grep -v 'Cannot export local symbol' >"$log" || {
        tail -n 50 "$log" >&2
        exit 1
    }
    if [ "$sanitizer" = thread ]; then
        preload=$PWD/.build/libthread-sanitizer-mutex.so
        clang -shared -fPIC -O1 -Wall -Wextra -Werror Scripts/thread-sanitizer-mutex.c -o "$preload"
    fi
    # The programs that are measured or booted are those of the release build, and need no second look here. XCTest has
    # no test here, and leaks.
    status=0
    LD_PRELOAD=$preload ASAN_OPTIONS=detect_leaks=1 TSAN_OPTIONS="suppressions=$PWD/Scripts/thread-sanitizer.supp" \
        swift test "${options[@]}" --skip-build --disable-xctest --filter "${SANITIZE_FILTER:-.}" --skip '^GuestTests\.' \
        >"$log" 2>&1 || status=$?
    grep -E '^(✔ Test run|✘|↳ .*(error|warning))' "$log" || true
    if grep -qE 'ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer' "$log"; then
        grep -nE -A 20 'ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer' "$log" | head -n 100 >&2
        echo "Reports of $sanitizer: $log" >&2
        exit 1
    fi
    grep -q '^✔ Test run' "$log" && [ "$status" = 0 ] || {
        echo "Tests fail under $sanitizer: $log" >&2
        exit 1
    }
done
