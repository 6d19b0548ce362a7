// SPDX-License-Identifier: Apache-2.0
//
// A queue between start and stop: vhost-user.rst "Ring states".

import VirtioQueue
import VsockSystem

/// A virtqueue in use. Its descriptors belong to the session.
final class RunningQueue {
    private let state: OwnedState<DeviceQueue>

    init(ring: consuming DeviceQueue) { state = OwnedState(ring) }

    /// The device's half.
    var ring: DeviceQueue {
        @inline(__always) _read { yield state.value }
        @inline(__always) _modify { yield &state.value }
    }
}
