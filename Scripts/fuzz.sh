#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the fuzzers with AddressSanitizer and runs them, one after another, for so many seconds each. What they find is
# kept: an input that breaks a rule in Fuzzing/FailCases, from where `make test` replays it; new inputs that reach more
# code in .build/fuzz, for the next run. .build/fuzz/executed says how many inputs each run has executed.
#
#   Scripts/fuzz.sh SECONDS [TARGET...]
#
#   FUZZ_SANITIZER=none        two to five times as many inputs; crashes, hangs and broken rules only
#   FUZZ_CONFIGURATION=debug   slower, and finds more: the optimiser folds comparisons that libFuzzer could learn from
#   FUZZ_TIMEOUT=10            seconds that one input may take; 1 unless the machine has more to do than that
set -euo pipefail
cd "$(dirname "$0")/.."
readonly all=(wire queue vhost-user session hybrid core device)
readonly configuration=${FUZZ_CONFIGURATION:-release} sanitizer=${FUZZ_SANITIZER:-address}
# With its own backtraces Swift hangs after a crash under AddressSanitizer.
export SWIFT_BACKTRACE=enable=no

usage() {
    echo "usage: Scripts/fuzz.sh SECONDS [${all[*]}]" >&2
    exit 64
}
[[ ${1:-} =~ ^[0-9]+$ ]] || usage
readonly seconds=$1
shift
targets=("$@")
[ $# -gt 0 ] || targets=("${all[@]}")

program() { # vhost-user: FuzzVhostUser
    local name=Fuzz part
    for part in ${1//-/ }; do name+=${part^}; done
    echo "$name"
}

readonly scratch=Fuzzing/.build/$sanitizer
options=(--package-path Fuzzing --scratch-path "$scratch" -c "$configuration" --sanitize=fuzzer)
case $sanitizer in
# The compiler takes the last -sanitize only, and which of two SwiftPM puts last is chance.
address) options+=(--sanitize=address -Xswiftc -sanitize=fuzzer,address) ;;
# A tenth faster without the calls into shared libraries.
none) options+=(--static-swift-stdlib) ;;
*) usage ;;
esac
# Coverage needs the counters that the linker would drop, and the targets reach into the layers.
[ "$configuration" = debug ] || options+=(--disable-dead-strip -Xswiftc -enable-testing)
for target in "${targets[@]}"; do
    [[ " ${all[*]} " = *" $target "* ]] || usage
    swift build "${options[@]}" --product "$(program "$target")" 2> >(grep -v 'Cannot export local symbol' >&2)
done

# Longer inputs find no more, and take longer.
longest() {
    case $1 in
    hybrid) echo 128 ;;
    queue | core | device) echo 192 ;;
    vhost-user | session) echo 256 ;;
    *) echo 512 ;;
    esac
}

# Sockets of host programs are files.
[ ! -d /dev/shm ] || export TMPDIR=/dev/shm
# What a device frees after an input stays for the next one: from the kernel it would come page by page.
export GLIBC_TUNABLES=glibc.malloc.trim_threshold=268435456:glibc.malloc.mmap_threshold=67108864
for target in "${targets[@]}"; do
    fuzzer=$scratch/$configuration/$(program "$target")
    mkdir -p ".build/fuzz/$target" "Fuzzing/FailCases/$target" "Fuzzing/Corpus/$target"
    log=.build/fuzz/$target.log
    echo "$target: $seconds s"
    if ! "$fuzzer" ".build/fuzz/$target" "Fuzzing/Corpus/$target" "Fuzzing/FailCases/$target" \
        -artifact_prefix="Fuzzing/FailCases/$target/" -max_total_time="$seconds" -max_len="$(longest "$target")" \
        -timeout="${FUZZ_TIMEOUT:-1}" -rss_limit_mb=2048 -reduce_inputs=0 -print_funcs=0 -print_final_stats=1 \
        >"$log" 2>&1; then
        grep -vE '^#[0-9]' "$log" | tail -n 60 >&2
        input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        echo "$target: found something; again with" >&2
        echo "    SWIFT_BACKTRACE=enable=no $fuzzer ${input:-Fuzzing/FailCases/$target/*}" >&2
        exit 1
    fi
    executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    echo "    $executed inputs"
    echo "$(date -u +%F) $target $sanitizer $executed inputs $seconds s" >>.build/fuzz/executed
done
