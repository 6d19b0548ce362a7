// SPDX-License-Identifier: Apache-2.0
//
// Guests that are booted once for all suites that only run commands in them.

import Testing

/// What runs in guests that others have used before.
@Suite("In guests that stay", .serialized, .stoppingGuests)
enum BootedGuests {
    /// Those that wait for the next test, by kernel.
    @MainActor private static var waiting: [String: GuestShell] = [:]

    /// A guest that waits, or a new one.
    @MainActor
    static func take(_ kernel: String) throws -> GuestShell {
        try waiting.removeValue(forKey: kernel) ?? GuestShell(kernel: kernel)
    }

    /// Keeps a guest for the next test, when nothing of this one is left. One that a test has thrown with is not given
    /// back and ends: it may be in any state.
    @MainActor
    static func giveBack(_ guest: GuestShell) throws {
        try guest.expectNoDescriptorsLeft()
        waiting[guest.kernel] = guest
    }

    @MainActor
    fileprivate static func stop() throws {
        defer { waiting = [:] }
        for guest in waiting.values { try guest.stop() }
    }
}

/// Ends the guests in order, after the last of the suites.
struct StoppingGuests: SuiteTrait, TestScoping {
    func provideScope(
        for test: Test, testCase: Test.Case?, performing function: @Sendable () async throws -> Void
    ) async throws {
        try await function()
        try await BootedGuests.stop()
    }
}

extension Trait where Self == StoppingGuests {
    /// Guests of ``BootedGuests`` end with this suite.
    static var stoppingGuests: Self { Self() }
}
