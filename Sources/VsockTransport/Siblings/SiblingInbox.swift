// SPDX-License-Identifier: Apache-2.0
//
// How the halves of a connection between two guests talk to each other across threads: each VM has an inbox, and a
// batch of messages costs one lock and, when the inbox was empty, one wake of the other loop. What is in it is bounded
// by what the connections may have under way: credit for payload, one connection slot of the sender for the rest.

import Synchronization
import VsockCore
import VsockWire

/// What one half of a connection tells the other.
enum SiblingEvent {
    /// The guest of the half that sends it asks for a port of the other guest.
    case request(type: SocketType, origin: VsockAddress, port: UInt32, recordLimit: Int)
    /// The other guest has accepted.
    case accepted(recordLimit: Int)
    /// The other guest has refused, or nobody is there.
    case refused
    /// The other guest takes records of so many bytes from now on.
    case recordLimit(Int)
    /// Payload.
    case payload(Parcel)
    /// What was sent of the record that goes on is void.
    case discardOpenRecord
    /// Payload has left for the other guest, or was thrown away there.
    case consumed(byteCount: Int, recordCount: Int)
    /// The other guest gives up directions; all that it has given up by now.
    case shutdown(ShutdownFlags)
    /// The other half has ended in peace.
    case closed
    /// The other half has ended because it could not go on.
    case aborted
}

/// An event for one half of a connection.
struct SiblingMessage: @unchecked Sendable {
    // Unchecked: a half belongs to the thread of its VM, and is only handed around by others.
    let target: SiblingSocket
    let event: SiblingEvent
}

/// The messages for one VM.
final class SiblingInbox: Sendable {
    private struct State {
        var messages: [SiblingMessage] = []
        var isClosed = false
    }

    private let mailbox: LoopMailbox
    private let state = Mutex(State())
    private let owner = Mutex(Owner())

    private struct Owner: @unchecked Sendable {
        // Unchecked: the task is only touched on its own loop.
        weak var task: LoopTask?
    }

    /// An inbox of a VM whose loop is reached through `mailbox`.
    init(mailbox: LoopMailbox) { self.mailbox = mailbox }

    /// Schedules `task` from now on when messages come.
    func open(_ task: LoopTask) { owner.withLock { $0.task = task } }

    /// Takes no more messages.
    func close() {
        state.withLock { $0 = State(isClosed: true) }
        owner.withLock { $0.task = nil }
    }

    /// Messages that wait.
    var count: Int { state.withLock { $0.messages.count } }

    /// Hands messages over.
    func post(_ messages: [SiblingMessage]) {
        let mustWake = state.withLock { state in
            guard !state.isClosed else { return false }
            defer { state.messages += messages }
            return state.messages.isEmpty
        }
        guard mustWake else { return }
        mailbox.submit { [weak self] loop in
            if let task = self?.owner.withLock({ $0 }).task { loop.schedule(task) }
        }
    }

    /// Takes all messages.
    func take() -> [SiblingMessage] {
        state.withLock { state in
            defer { state.messages = [] }
            return state.messages
        }
    }
}

/// The way from one VM to another.
final class SiblingRoute {
    /// The other guest.
    let cid: VsockAddress.ContextID
    private let inbox: SiblingInbox
    /// Messages of the batch at hand.
    private var outbox: [SiblingMessage] = []

    init(cid: VsockAddress.ContextID, inbox: SiblingInbox) {
        self.cid = cid
        self.inbox = inbox
    }

    /// Messages that wait for the other guest's device, those of the batch included.
    var waitingCount: Int { inbox.count + outbox.count }

    /// Adds a message to the batch; true when it is the first.
    func append(_ message: SiblingMessage) -> Bool {
        outbox.append(message)
        return outbox.count == 1
    }

    /// Hands the batch over.
    func deliver() {
        inbox.post(outbox)
        outbox.removeAll(keepingCapacity: true)
    }
}
