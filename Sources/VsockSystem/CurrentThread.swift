// SPDX-License-Identifier: Apache-2.0
//
// The calling thread: sched_yield(2).

import Glibc

/// The thread that asks.
public enum CurrentThread {
    /// Lets other threads have the processor.
    public static func yield() { sched_yield() }
}
