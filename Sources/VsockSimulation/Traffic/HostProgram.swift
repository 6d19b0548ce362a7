// SPDX-License-Identifier: Apache-2.0
//
// A program on the host at one end of a conversation: it listens at `PATH_<port>` or says CONNECT at `PATH`, sends what
// its script says, reads as it likes, shuts down and closes.

import VsockSystem
import VsockTestSupport
import VsockWire

/// See the top of the file.
final class HostProgram {
    private enum State {
        case listening(ModelListener)
        case asking(ModelSocket)
        case connected(ModelSocket)
        case ended
    }

    let conversation: Conversation
    private let end: TrafficEnd
    private let kernel: ModelKernel
    private var state: State
    private let sendBuffer: Int
    private var answer: [UInt8] = []

    /// Listens, or asks for the guest's port.
    init(_ conversation: Conversation, path: String, isInitiator: Bool, sendBuffer: Int, kernel: ModelKernel) {
        self.conversation = conversation
        self.kernel = kernel
        self.sendBuffer = sendBuffer
        end = isInitiator ? conversation.ends.initiator : conversation.ends.acceptor
        let type: UnixSocketType = conversation.type == .stream ? .stream : .seqpacket
        state = .ended
        guard isInitiator else {
            state = .listening(kernel.listenProgram(at: "\(path)_\(conversation.port)", type: type))
            return
        }
        switch kernel.connectProgram(to: type == .stream ? path : path + "_seqpacket", type: type) {
        case .success(let socket):
            socket.sendBuffer = sendBuffer
            _ = kernel.send(socket, Array("CONNECT \(conversation.port)\n".utf8), isFaulty: false)
            state = .asking(socket)
        case .failure:
            conversation.refuse()
        }
    }

    /// Does something that it can do; `random` decides how much. With `isDiligent` as much as possible.
    func run(_ random: inout PRNG, isDiligent: Bool) {
        switch state {
        case .ended:
            return
        case .listening(let listener):
            if listener.waiting.isEmpty {
                guard conversation.ends.initiator.isClosed else { return }
                // Nobody comes any more.
                kernel.closeListener(listener)
                state = .ended
                end.isClosed = true
            } else {
                let socket = listener.waiting.removeFirst()
                socket.sendBuffer = sendBuffer
                kernel.closeListener(listener)
                conversation.isEstablished = true
                state = .connected(socket)
            }
        case .asking(let socket):
            readAnswer(socket)
        case .connected(let socket):
            if isDiligent || random.chance(percent: 60) { read(socket, &random, isDiligent) }
            if isDiligent || random.chance(percent: 60) { send(socket, &random, isDiligent) }
            finish(socket)
        }
    }

    /// Closes now, whatever is under way: the program was killed.
    func die() {
        switch state {
        case .ended: return
        case .listening(let listener):
            kernel.closeListener(listener)
            if !conversation.isEstablished { conversation.mayBeRefused = true }
        case .asking(let socket), .connected(let socket):
            kernel.closeSocket(socket)
        }
        state = .ended
        end.isClosed = true
        conversation.isDoomed = true
    }

    private func readAnswer(_ socket: ModelSocket) {
        // Not a byte more than the line: what follows is data.
        while let byte = kernel.receive(socket, limit: socket.type == .stream ? 1 : .max) {
            guard !byte.isEmpty else {
                kernel.closeSocket(socket)
                state = .ended
                conversation.connectFailed()
                return
            }
            answer += byte
            guard answer.last == UInt8(ascii: "\n") else { continue }
            if !answer.starts(with: "OK ".utf8) { end.fail("no OK") }
            conversation.isEstablished = true
            conversation.isConnected = true
            state = .connected(socket)
            return
        }
    }

    private func read(_ socket: ModelSocket, _ random: inout PRNG, _ isDiligent: Bool) {
        guard !end.sawEnd else { return }
        for _ in 0..<(isDiligent ? 64 : random.within(1...4)) {
            let limit = isDiligent || random.chance(percent: 30) ? 65_536 : random.within(1...600)
            let hadData = socket.hasUnread
            guard let bytes = kernel.receive(socket, limit: limit) else { return }
            guard hadData else {
                end.sawEnd = true
                return
            }
            bytes.withUnsafeBytes { end.received($0) }
            if end.type == .seqpacket { end.recordEnded(hasMark: false) }
        }
    }

    private func send(_ socket: ModelSocket, _ random: inout PRNG, _ isDiligent: Bool) {
        for _ in 0..<(isDiligent ? 64 : random.within(1...4)) where !end.hasSentAll {
            let limit = end.type == .seqpacket || isDiligent ? Int.max : random.within(1...2000)
            switch kernel.send(socket, end.nextBytes(limit), isFaulty: false) {
            case .count(let count):
                end.sent(count)
                if end.type == .seqpacket { end.partSent() }
            case .wouldBlock:
                return
            case .failed:
                // The other side is gone: what is wrong with that shows when it is compared.
                end.giveUpSending()
            }
        }
    }

    private func finish(_ socket: ModelSocket) {
        guard end.hasSentAll else { return }
        if !end.hasEnded {
            end.hasEnded = true
            kernel.shutdown(socket, receive: false, send: true)
        }
        guard end.sawEnd else { return }
        kernel.closeSocket(socket)
        state = .ended
        end.isClosed = true
    }
}
