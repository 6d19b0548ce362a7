// SPDX-License-Identifier: Apache-2.0

/// How the threads of a daemon share the machine with others.
public struct WorkerOptions: Sendable {
    /// How long a thread looks for events before it sleeps, in nanoseconds, where that has been worth it lately; 0 lets it
    /// sleep at once. 100 µs is what it takes to wake a program or a virtual processor that answers at once.
    public var busyPollNanoseconds: UInt64 = 100_000
    /// Whether a thread that exchanges data with one busy host program runs on that program's processor, as long as that
    /// pays.
    public var followsPeers = true

    /// The defaults.
    public init() {}
}
