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

import Synchronization
import VsockSystem
import VsockTransport

/// One connection's relay.
struct Relay {
    let connection: RelaySocket
    let content: RelayContent
    /// Whether the end of standard input shuts the sending direction.
    let shutsDown: Bool
    /// Whether another connection will read on from standard input.
    let isRepeated: Bool

    /// Counts the directions that have ended.
    private final class Ends: Sendable {
        private let count = Atomic<Int>(0)
        /// True for the second.
        func add() -> Bool { count.add(1, ordering: .acquiringAndReleasing).newValue == 2 }
    }

    /// Runs until the connection is over, and closes it. Throws a ``ConnectionFailure`` for what ended the connection
    /// too early, and something else for what ends the command.
    func run() throws {
        let ends = Ends()
        let stop = try EventNotifier()
        let sender = RelaySender(
            connection, try StandardInput(stop: stop), content, shutsDown: shutsDown, checksUnread: !isRepeated)
        let thread = try WorkerThread(name: "input") { [connection] in
            sender.run()
            // Ends the wait below.
            if ends.add() { connection.shutdown(.both) }
        }
        // If this throws, the command ends, and need not wait for its input.
        let received = try RelayReceiver(connection: connection, content: content).run()
        // The peer sends no more. It may take the rest of the input, or be gone.
        if received == nil, !ends.add() { _ = connection.socket.poll([], timeoutNanoseconds: nil) }
        stop.signal()
        // Releases a send that waits for a peer which does not read.
        connection.shutdown(.both)
        thread.join()
        connection.socket.close()
        if let failure = received ?? sender.failure { throw failure }
    }
}
