// SPDX-License-Identifier: Apache-2.0
//
// A queue between start and stop: vhost-user.rst "Ring states".

import VirtioQueue
import VsockSystem

/// A virtqueue in use. Its descriptors belong to the session.
final class RunningQueue {
    @exclusivity(unchecked) var ring: DeviceQueue

    init(ring: consuming DeviceQueue) { self.ring = ring }
}
