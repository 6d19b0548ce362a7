// SPDX-License-Identifier: Apache-2.0

import VhostUser
import VirtioQueue
import VsockSystem

/// Why a driver cannot use a device.
public enum VsockDriverError: Error, CustomStringConvertible {
    /// A system call failed.
    case system(SystemCallError)
    /// The back-end does not speak vhost-user as it should, or has gone.
    case session(String)
    /// The device broke a rule of virtqueues.
    case queue(VirtqueueError)
    /// The device has no usable context ID for its guest.
    case noContextID

    /// One line.
    public var description: String {
        switch self {
        case .system(let error): "\(error)"
        case .session(let reason): "vhost-user: \(reason)"
        case .queue(let error): "virtqueue: \(error)"
        case .noContextID: "the device gives its guest no context ID"
        }
    }
}
