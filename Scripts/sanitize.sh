#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The tests without guests under AddressSanitizer and under ThreadSanitizer, each in a build of its own; so is `vsock`,
# where tests start it.
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
    # XCTest has no test here, and leaks. A daemon that a test has started writes its reports to where nobody reads, so
    # reports go to files.
    status=0
    reports=$PWD/.build/$sanitizer-reports
    rm -rf "$reports"
    mkdir -p "$reports"
    unset VSOCK_COMMAND
    export VSOCK_SANITIZED=$sanitizer
    LD_PRELOAD=$preload ASAN_OPTIONS="detect_leaks=1 log_path=$reports/report" \
        LSAN_OPTIONS="suppressions=$PWD/Scripts/leak-sanitizer.supp print_suppressions=0" \
        TSAN_OPTIONS="suppressions=$PWD/Scripts/thread-sanitizer.supp log_path=$reports/report" \
        swift test "${options[@]}" --skip-build --disable-xctest --filter "${SANITIZE_FILTER:-.}" --skip '^GuestTests\.' \
        >"$log" 2>&1 || status=$?
    grep -E '^(✔ Test run|✘|↳ .*(error|warning))' "$log" || true
    if [ -n "$(find "$reports" -type f -size +0)" ]; then
        sed -n 1,100p "$reports"/* >&2
        echo "Reports of $sanitizer: $reports" >&2
        exit 1
    fi
    grep -q '^✔ Test run' "$log" && [ "$status" = 0 ] || {
        echo "Tests fail under $sanitizer: $log" >&2
        exit 1
    }
done
