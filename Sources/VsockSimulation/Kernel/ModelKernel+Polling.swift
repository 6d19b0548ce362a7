// SPDX-License-Identifier: Apache-2.0
//
// Readiness, as fs/eventpoll.c has it: something that happens to an object puts it on the ready list of those who watch
// it; a wait looks at the list again, reports what is still true, and keeps what is watched level-triggered.

import VsockSystem

/// Something that can be watched.
class PolledObject {
    /// Who watches it.
    @exclusivity(unchecked) final var watchers: [ModelWatch] = []
    /// Descriptors and messages that refer to it.
    @exclusivity(unchecked) final var holderCount = 0
    /// What it is ready for.
    var readiness: PollEvents { [] }

    /// Something has happened to it.
    final func wake(_ events: PollEvents) {
        for watch in watchers where !watch.events.union([.error, .hangUp]).isDisjoint(with: events) {
            watch.poller?.enqueue(watch)
        }
    }

    /// eventpoll_release(): it is closed, and nobody watches it any more.
    final func forgetWatchers() {
        for watch in watchers { watch.poller?.forget(watch) }
        watchers = []
    }
}

/// One descriptor of a poller.
final class ModelWatch {
    weak var poller: ModelPoller?
    let target: PolledObject
    let descriptor: Int32
    @exclusivity(unchecked) var events: PollEvents
    var token: UInt64
    @exclusivity(unchecked) var isQueued = false
    @exclusivity(unchecked) var isRemoved = false

    init(_ poller: ModelPoller, _ target: PolledObject, _ descriptor: Int32, _ events: PollEvents, _ token: UInt64) {
        self.poller = poller
        self.target = target
        self.descriptor = descriptor
        self.events = events
        self.token = token
    }

    /// What would be reported now.
    var ready: PollEvents { target.readiness.intersection(events.union([.error, .hangUp])) }
}

/// An epoll instance.
final class ModelPoller: PolledObject {
    @exclusivity(unchecked) private var watches: [Int32: ModelWatch] = [:]
    @exclusivity(unchecked) private var queue: [ModelWatch] = []

    override var readiness: PollEvents { queue.contains { !$0.ready.isEmpty } ? .readable : [] }

    func enqueue(_ watch: ModelWatch) {
        guard !watch.isQueued, !watch.isRemoved else { return }
        watch.isQueued = true
        queue.append(watch)
    }

    func watch(_ target: PolledObject, _ descriptor: Int32, _ events: PollEvents, _ token: UInt64) {
        let watch: ModelWatch
        // A descriptor that was closed is not watched any more, whoever has its number now.
        if let known = watches[descriptor], known.target === target {
            known.events = events
            known.token = token
            watch = known
        } else {
            if let stale = watches[descriptor] { remove(stale) }
            watch = ModelWatch(self, target, descriptor, events, token)
            watches[descriptor] = watch
            target.watchers.append(watch)
        }
        if !watch.ready.isEmpty { enqueue(watch) }
    }

    func unwatch(_ descriptor: Int32) -> Bool {
        guard let watch = watches[descriptor] else { return false }
        remove(watch)
        return true
    }

    private func remove(_ watch: ModelWatch) {
        watch.target.watchers.removeAll { $0 === watch }
        forget(watch)
    }

    func forget(_ watch: ModelWatch) {
        watch.isRemoved = true
        if watch.isQueued { queue.removeAll { $0 === watch } }
        if watches[watch.descriptor] === watch { watches[watch.descriptor] = nil }
    }

    func removeAll() {
        for watch in watches.values { remove(watch) }
        watches = [:]
        queue = []
    }

    func take(_ limit: Int) -> [PollEvent] {
        var result: [PollEvent] = []
        var rest: [ModelWatch] = []
        var left = queue[...]
        while result.count < limit, let watch = left.popFirst() {
            let ready = watch.isRemoved ? [] : watch.ready
            watch.isQueued = false
            guard !ready.isEmpty else { continue }
            result.append(PollEvent(token: watch.token, events: ready))
            if !watch.events.contains(.edgeTriggered) { rest.append(watch) }
        }
        queue = Array(left)
        for watch in rest { enqueue(watch) }
        return result
    }
}

extension ModelKernel {
    func makePoller() -> Result<Int32, Errno> { openForDevice(.poller(ModelPoller())) }

    func watch(_ poller: Int32, _ target: Int32, _ events: PollEvents, token: UInt64) -> Errno? {
        // A file of Linux's is memory, which is always ready.
        guard target >= Simulation.firstDescriptor else { return .notPermitted }
        guard case .poller(let object)? = object(poller), let polled = polled(target) else { return .badFileDescriptor }
        object.watch(polled, target, events, token)
        return nil
    }

    func unwatch(_ poller: Int32, _ target: Int32) -> Errno? {
        guard case .poller(let object)? = object(poller), object.unwatch(target) else { return .noSuchFile }
        return nil
    }

    func events(_ poller: Int32, limit: Int) -> [PollEvent] {
        release()
        guard case .poller(let object)? = object(poller) else { return [] }
        return object.take(limit)
    }

    func readiness(_ descriptor: Int32) -> PollEvents { polled(descriptor)?.readiness ?? .error }

    private func polled(_ descriptor: Int32) -> PolledObject? { object(descriptor)?.polled }
}
