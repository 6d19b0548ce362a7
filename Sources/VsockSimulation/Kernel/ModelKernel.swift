// SPDX-License-Identifier: Apache-2.0
//
// A model of the part of Linux that devices and host programs use: Unix sockets (unix(7), net/unix/af_unix.c), eventfds
// and epoll (fs/eventpoll.c). One thread, no clock but the one it is given, and faults that are drawn from a seed:
// reads and writes that come back short or with EAGAIN although there was something, descriptors that have run out.
//
// Files: +Sockets is what af_unix.c does, +Polling what eventpoll.c does, +Passing what scm.c does; this one keeps the
// descriptors.

import VsockSystem
import VsockTestSupport

/// What goes wrong, in percent of the calls of devices.
struct KernelFaults {
    /// EAGAIN although data is there, or room.
    var spuriousBlocks = 0
    /// A stream moves less than it could.
    var shortTransfers = 0
    /// EMFILE from every call that makes a descriptor.
    var exhaustsDescriptors = false

    static let none = KernelFaults()
}

/// See the top of the file.
final class ModelKernel: SimulatedKernel, @unchecked Sendable {
    // Unchecked: a simulation has one thread.

    /// What a descriptor refers to.
    enum Object {
        case socket(ModelSocket)
        case listener(ModelListener)
        case notifier(ModelNotifier)
        case poller(ModelPoller)

        var polled: PolledObject {
            switch self {
            case .socket(let socket): socket
            case .listener(let listener): listener
            case .notifier(let notifier): notifier
            case .poller(let poller): poller
            }
        }
    }

    /// The time.
    var now: UInt64 = 1_000_000_000
    @exclusivity(unchecked) var faults = KernelFaults.none
    var random: PRNG
    /// Largest SO_SNDBUF that is granted, before it is doubled: net.core.wmem_max.
    let maximumSendBuffer: Int
    /// By path.
    var listeners: [String: ModelListener] = [:]
    /// By descriptor, from ``Simulation/firstDescriptor`` on.
    @exclusivity(unchecked) private var objects: [Object?] = []
    @exclusivity(unchecked) private var freeDescriptors: [Int32] = []
    /// Calls that moved something: what a simulation takes for progress.
    @exclusivity(unchecked) var activity = 0
    /// Sockets whose data or room was held back by a fault, and when that ends.
    var heldBack: [(socket: ModelSocket, time: UInt64)] = []

    init(seed: UInt64, maximumSendBuffer: Int) {
        random = PRNG(seed: seed)
        self.maximumSendBuffer = maximumSendBuffer
    }

    // MARK: Descriptors

    /// Open descriptors.
    var descriptorCount: Int { objects.count - freeDescriptors.count }

    func open(_ object: Object) -> Int32 {
        object.polled.holderCount += 1
        let descriptor = freeDescriptors.popLast() ?? Simulation.firstDescriptor + Int32(objects.count)
        let index = Int(descriptor - Simulation.firstDescriptor)
        if index == objects.count { objects.append(object) } else { objects[index] = object }
        return descriptor
    }

    func object(_ descriptor: Int32) -> Object? {
        let index = Int(descriptor - Simulation.firstDescriptor)
        return index >= 0 && index < objects.count ? objects[index] : nil
    }

    func socket(_ descriptor: Int32) -> ModelSocket? {
        if case .socket(let socket)? = object(descriptor) { socket } else { nil }
    }

    /// The object if a device may have one more descriptor now.
    func openForDevice(_ object: @autoclosure () -> Object) -> Result<Int32, Errno> {
        faults.exhaustsDescriptors ? .failure(.tooManyOpenFiles) : .success(open(object()))
    }

    func close(_ descriptor: Int32) {
        guard let object = object(descriptor) else { return }
        objects[Int(descriptor - Simulation.firstDescriptor)] = nil
        freeDescriptors.append(descriptor)
        activity += 1
        drop(object)
    }

    /// fput(): one that refers to it is gone.
    func drop(_ object: Object) {
        object.polled.holderCount -= 1
        guard object.polled.holderCount == 0 else { return }
        switch object {
        case .socket(let socket): closeSocket(socket)
        case .listener(let listener): closeListener(listener)
        case .notifier(let notifier): notifier.forgetWatchers()
        case .poller(let poller): poller.removeAll()
        }
    }

    // MARK: Notifiers

    func makeNotifier() -> Result<Int32, Errno> { openForDevice(.notifier(ModelNotifier())) }

    // MARK: Faults

    func chance(_ percent: Int) -> Bool { percent > 0 && random.chance(percent: percent) }

    /// What a fault has held back is there after a while, and the socket's watchers hear of it.
    func holdBack(_ socket: ModelSocket) {
        heldBack.append((socket, now + UInt64(random.within(1...2_000_000))))
    }

    /// Lets go what was held back until now, or all of it.
    func release(all: Bool = false) {
        guard !heldBack.isEmpty else { return }
        let due = heldBack.filter { all || $0.time <= now }
        heldBack.removeAll { all || $0.time <= now }
        for (socket, _) in due { socket.wake([.readable, .writable]) }
    }

    /// When the next of it is let go.
    var nextRelease: UInt64? { heldBack.map(\.time).min() }
}

/// An eventfd.
final class ModelNotifier: PolledObject {
    var isSignalled = false
    override var readiness: PollEvents { isSignalled ? [.readable, .writable] : .writable }
}
