// SPDX-License-Identifier: Apache-2.0
//
// The targets of the fuzzers. Each takes an input of any bytes, reads it as a list of operations, and holds what the
// code under it does against rules of its own. A target uses no random source and starts no thread, and of what it has
// from one input to the next (FuzzBench) nothing shows: the same input does the same again.

/// A part of the package and the input that is thrown at it.
package enum FuzzTarget: String, CaseIterable, Sendable {
    /// Headers, markers, events, captures.
    case wire
    /// Descriptor chains in guest memory, and rings, from both sides.
    case queue
    /// Messages of vhost-user, without descriptors: both sessions.
    case vhostUser = "vhost-user"
    /// A monitor with descriptors, in any order and of any kind, against a device.
    case session
    /// What host programs say: CONNECT lines, answers, control lines.
    case hybrid
    /// Packets and commands against the connections of an endpoint.
    case core
    /// A device with sockets of host programs against a hostile driver.
    case device

    /// Whether inputs open descriptors.
    package var usesDescriptors: Bool { self == .session || self == .device }

    /// Runs one input.
    package func run(_ bytes: UnsafeRawBufferPointer, on bench: FuzzBench) throws(FuzzFinding) {
        var input = FuzzInput(bytes)
        switch self {
        case .wire: try WireFuzz.run(&input)
        case .queue: try QueueFuzz.run(&input, bench)
        case .vhostUser: try VhostUserFuzz.run(&input)
        case .session: try bench.withKernel { () throws(FuzzFinding) in try SessionFuzz.run(&input, bench) }
        case .hybrid: try HybridFuzz.run(&input)
        case .core: try CoreFuzz.run(&input)
        case .device: try bench.withKernel { () throws(FuzzFinding) in try DeviceFuzz.run(&input, bench) }
        }
    }
}

/// A rule that an input has broken.
package struct FuzzFinding: Error, CustomStringConvertible {
    package let description: String

    package init(_ description: String) { self.description = description }
}

/// Holds `condition`; `rule` says what it means.
func expect(_ condition: Bool, _ rule: @autoclosure () -> String) throws(FuzzFinding) {
    guard condition else { throw FuzzFinding(rule()) }
}
