// SPDX-License-Identifier: Apache-2.0

import FuzzRunner
import FuzzTargets

/// What libFuzzer calls.
@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ bytes: UnsafeRawPointer?, _ count: Int) -> CInt { runOrTrap(.wire, bytes, count) }
