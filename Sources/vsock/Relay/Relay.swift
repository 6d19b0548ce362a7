// SPDX-License-Identifier: Apache-2.0
//
// Joins the standard streams to a socket: one thread for each direction, both with blocking calls, so that neither
// direction ever waits for the other, whatever the streams are (a pipe that is reported writable may still block).
//
//      calling thread   socket -> standard output      RelayReceiver
//      "input" thread   standard input -> socket       RelaySender
//
// How it ends:
//
//      end of standard input     shuts the sending direction; what the peer sends still arrives
//      end from the peer         what has arrived is written; input still flows if the peer takes it
//      both                      done
//      the peer is gone          done; an error if input was left that nobody takes
//      reset, refusal to take    an error

import ArgumentParser
import VsockSystem

/// One connection's relay.
struct Relay {
    let socket: RelaySocket
    let content: RelayContent
    /// Whether the end of standard input shuts the sending direction.
    let shutsDown: Bool
    /// Whether another connection will read on from standard input.
    let isRepeated: Bool

    /// Runs until the connection is over. Throws a ``ConnectionFailure`` for what ended the connection too early, and
    /// something else for what ends the command.
    func run() throws {
        let stop = try EventNotifier()
        let done = try EventNotifier()
        let sender = RelaySender(
            socket, try StandardInput(stop: stop), content, shutsDown: shutsDown, checksUnread: !isRepeated)
        let thread = try WorkerThread(name: "input") {
            sender.run()
            done.signal()
        }
        // If this throws, the command ends, and need not wait for its input.
        let received = try RelayReceiver(socket: socket, content: content).run()
        if received == nil { try waitForPeerOrInput(done) }
        stop.signal()
        // Releases a send that waits for a peer which does not read.
        socket.shutdown(.both)
        thread.join()
        if let failure = received ?? sender.failure { throw failure }
    }

    /// The peer sends no more. Waits until all input is sent or the peer does not take it.
    private func waitForPeerOrInput(_ done: EventNotifier) throws {
        let poller = try Poller()
        var events = PollEventBuffer(capacity: 2)
        try poller.add(done.rawDescriptor, .readable, token: 0)
        // Edges, because the end itself is a state that stays.
        try poller.add(socket.rawDescriptor, [.readHangUp, .writable, .edgeTriggered], token: 1)
        while true {
            let count = try poller.wait(into: &events, timeoutNanoseconds: nil)
            for index in 0..<count {
                if events[index].token == 0 || socket.isPeerGone(events[index].events) { return }
            }
        }
    }
}
