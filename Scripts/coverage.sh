#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# How many lines of the four pure layers their own tests run. Fails when a layer has less than the limit. The layers and
# their tests are built as a package of their own, which takes a minute instead of five: nothing above them, no
# libraries.
#
#   Scripts/coverage.sh          the share of each layer, and the files below the limit
#   Scripts/coverage.sh --lines  also the lines that no test runs
set -euo pipefail
cd "$(dirname "$0")/.."
readonly limit=95
readonly layers=(VsockWire VsockCore VirtioQueue VhostUser)
readonly package=$PWD/.build/coverage

mkdir -p "$package/Sources" "$package/Tests"
for layer in "${layers[@]}" VsockTestSupport; do ln -sfn "$PWD/Sources/$layer" "$package/Sources/$layer"; done
for layer in "${layers[@]}"; do ln -sfn "$PWD/Tests/${layer}Tests" "$package/Tests/${layer}Tests"; done
# The manifest of the whole, cut down at its end.
{
    cat Package.swift
    printf 'let kept: Set = ["VsockTestSupport"'
    printf ', "%s"' "${layers[@]}" "${layers[@]/%/Tests}"
    printf ']\npackage.targets.removeAll { !kept.contains($0.name) }\npackage.products = []\npackage.dependencies = []\n'
} >"$package/Package.swift.new"
cmp -s "$package/Package.swift.new" "$package/Package.swift" || cp "$package/Package.swift.new" "$package/Package.swift"

swift test --package-path "$package" --enable-code-coverage >"$package/log" 2>&1 || {
    tail -n 40 "$package/log" >&2
    echo "The tests of the layers fail; the whole log is $package/log" >&2
    exit 1
}

# What the runner has made of the counters is what llvm-cov exports.
python3 - "$package/.build/debug/codecov/swift-vsock.json" "$limit" "${1:-}" "${layers[@]}" <<'REPORT'
import json, sys

report, limit, option, layers = sys.argv[1], float(sys.argv[2]), sys.argv[3], sys.argv[4:]
files = json.load(open(report))["data"][0]["files"]


def share(lines):
    """Per cent; counted in lines, as llvm-cov does."""
    count = sum(line["count"] for line in lines)
    return 100 * sum(line["covered"] for line in lines) / count if count else 100


def lines_not_run(file):
    """Lines on which code begins that was never run."""
    for line, _, count, has_count, is_entry, is_gap in file["segments"]:
        if has_count and is_entry and count == 0 and not is_gap:
            yield line


failed = False
for layer in layers:
    own = [file for file in files if f"/Sources/{layer}/" in file["filename"]]
    total = share([file["summary"]["lines"] for file in own])
    print(f"{layer} {total:.1f} %")
    failed = failed or not own or total < limit
    for file in own:
        lines = file["summary"]["lines"]
        if option == "--lines" and lines["covered"] < lines["count"] or share([lines]) < limit:
            name = file["filename"].partition("/Sources/")[2]
            print(f"    {name} {lines['covered']} of {lines['count']} lines")
            if option == "--lines":
                print("       ", *sorted(set(lines_not_run(file))))
if failed:
    sys.exit(f"Less than {limit:g} % of a layer's lines are run by its tests: see Scripts/coverage.sh --lines")
REPORT
