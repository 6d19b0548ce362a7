// SPDX-License-Identifier: Apache-2.0

import FuzzRunner
import FuzzTargets

private let runner = FuzzRunner(.device)

/// What libFuzzer calls.
@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ bytes: UnsafeRawPointer?, _ count: Int) -> CInt { runner.runOrTrap(bytes, count) }
