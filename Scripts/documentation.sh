#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Compiles the documentation of the Swift API into .build/Vsock.doccarchive, from a debug build. A link that leads
# nowhere, or a parameter that does not exist, is an error. To read it: docc preview Sources/Vsock/Vsock.docc, with the
# same options.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly build=.build/debug
readonly symbols=.build/Vsock.symbols
[ -e "$build/Modules/Vsock.swiftmodule" ] || {
    echo "$build has no module Vsock: make build"
    exit 1
}
rm -rf "$symbols"
mkdir -p "$symbols"
triple=$(swift -print-target-info | sed -n 's/.*"unversionedTriple": "\(.*\)".*/\1/p' | head -n 1)

# The module exports some names of lower layers, which only this option shows.
swift symbolgraph-extract -module-name Vsock -target "$triple" -I "$build/Modules" -I Sources/CVsockLinux/include \
    -minimum-access-level public -experimental-allowed-reexported-modules=VsockCore,VsockWire,VsockTransport \
    -output-dir "$symbols"
docc convert Sources/Vsock/Vsock.docc --additional-symbol-graph-dir "$symbols" --fallback-display-name Vsock \
    --fallback-bundle-identifier swift-vsock.Vsock --output-path .build/Vsock.doccarchive --warnings-as-errors
