// SPDX-License-Identifier: Apache-2.0
//
// The deadline of the waits of tests.

/// No wait of a test is longer, in nanoseconds: reaching it is a failure, not a pause. Tests run side by side, and a
/// machine that is busy, or that was suspended for a while, is no failure.
public let testDeadline: UInt64 = 120_000_000_000

/// How long a wait that is expected to end in vain goes on, in nanoseconds: by then a busy machine, too, has done
/// whatever it was going to do.
public let testPatience: UInt64 = 1_000_000_000
