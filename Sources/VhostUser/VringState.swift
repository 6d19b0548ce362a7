// SPDX-License-Identifier: Apache-2.0
//
// What a back-end knows of one ring, and the two states it has: vhost-user.rst "Ring states".
//
//              SET_VRING_KICK, in-band VRING_KICK            SET_VRING_ENABLE 1, SET_FEATURES without bit 30
//   stopped ───────────────────────────────────► started    disabled ────────────────────────────► enabled
//           ◄───────────────────────────────────                     ◄────────────────────────────
//             GET_VRING_BASE, SET_VRING_NUM/BASE, reset       SET_VRING_ENABLE 0, RESET_OWNER, reset
//
// The two are independent. The specification starts a ring at the first signal on its kick descriptor; here it starts
// when the descriptor arrives. A ring with nothing available shows no difference, polling (no descriptor) has no
// signal at all, and after a reconnection the signals for buffers that are already there went to the back-end before.
//
// SET_VRING_NUM and SET_VRING_BASE stop a started ring: a driver of User Mode Linux that is removed and loaded again
// only disables its rings, sends no GET_VRING_BASE, and then sets them up from the beginning.

/// The state of one ring in a back-end.
public struct VringState: Equatable, Sendable {
    /// Entries of the ring; 0 until SET_VRING_NUM.
    public internal(set) var size = 0
    /// Where the ring lies; nil until SET_VRING_ADDR.
    public internal(set) var addresses: VringAddress?
    /// Index of the available ring at which processing starts, or at which it was stopped.
    public internal(set) var base: UInt16 = 0
    /// Whether the ring may be processed at all.
    public internal(set) var isStarted = false
    /// Whether processing may have effects. A ring that is started and disabled is drained without.
    public internal(set) var isEnabled = false
    /// Whether the front-end gave a descriptor to be told of available buffers by. A started ring without one is
    /// polled, unless the kicks come in-band.
    public internal(set) var hasKick = false
    /// Whether the front-end gave a descriptor to tell it of used buffers; if not, it polls.
    public internal(set) var hasCall = false
    /// Whether the front-end gave a descriptor to tell it of errors.
    public internal(set) var hasError = false

    /// A ring of a new connection.
    public init() {}

    /// Whether size and addresses are known.
    public var isConfigured: Bool { size > 0 && addresses != nil }

    /// Whether the ring is to be processed with all its effects: configured, started and enabled.
    public var isRunning: Bool { isConfigured && isStarted && isEnabled }

    mutating func stop() {
        isStarted = false
        hasKick = false
    }

    /// A ring that was set up is being set up anew. One that is not complete yet keeps a kick that came early.
    mutating func stopForSetup() {
        if isConfigured { stop() }
    }

    /// Back to the initial state of a device reset. The call and error descriptors stay, they belong to the session:
    /// a front-end that sends them again replaces them, one that does not still gets its notifications.
    mutating func reset() {
        let (hasCall, hasError) = (hasCall, hasError)
        self = VringState()
        self.hasCall = hasCall
        self.hasError = hasError
    }
}
