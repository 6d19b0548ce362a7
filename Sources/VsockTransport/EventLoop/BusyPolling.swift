// SPDX-License-Identifier: Apache-2.0
//
// How long a loop looks for events before it sleeps. To wake a thread costs its waker and itself more than a small packet
// does, most of all in a virtual machine; a thread that is awake when the answer comes saves both (Linux: SO_BUSY_POLL,
// busyloop_timeout of vhost-net). As with KVM's halt_poll_ns the time adapts itself:
//
//                  a wait no longer than the limit
//      budget 0  ----------------------------------->  budget 10 µs, 20 µs, ... limit
//                <-----------------------------------
//                        a wait beyond the limit
//
// And it is only done where traffic goes to and fro. Of a stream, what comes while the thread wakes up is served with it
// in one go; to take each piece as soon as it comes would cost more, and carry less.

/// The time that a loop may poll for.
struct BusyPolling: Equatable, Sendable {
    /// Nanoseconds of the first look.
    static let firstBudget: UInt64 = 10_000

    /// The most that a look may take, in nanoseconds; 0 for none.
    let limit: UInt64
    /// Whether what was done last is likely to be answered at once.
    var expectsAnswer = false
    private var learnt: UInt64 = 0

    init(limit: UInt64) { self.limit = limit }

    /// What the next look may take, in nanoseconds.
    var budget: UInt64 { expectsAnswer ? learnt : 0 }

    /// The loop has waited so long for an event, and has slept at the end.
    mutating func waited(nanoseconds: UInt64) {
        if nanoseconds > limit {
            learnt = 0
        } else if learnt < limit {
            learnt = min(limit, max(Self.firstBudget, learnt * 2))
        }
    }
}
