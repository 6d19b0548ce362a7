// SPDX-License-Identifier: Apache-2.0
//
// A host program that has connected to `PATH` or `PATH_seqpacket` and has not said yet which port of the guest it
// wants. On a stream the command may come in pieces, and data may follow it at once: that stays in the socket.

import VsockCore
import VsockSystem
import VsockWire

/// See the top of the file.
final class HybridClient: PollHandler {
    private var descriptor: OwnedFileDescriptor?
    private let type: SocketType
    private unowned let listener: HybridListener
    private var line: [UInt8] = []
    private var watch: Watch?
    /// Neighbours in the listener's ``ClientQueue``.
    var newer: HybridClient?
    unowned(unsafe) var older: HybridClient?
    /// Whether the listener has been told that there is something to read.
    var isReady = false
    /// When the client connected.
    let start: Instant
    /// When the client is given up.
    let deadline: Instant

    init(
        _ descriptor: consuming OwnedFileDescriptor, type: SocketType, listener: HybridListener, start: Instant,
        deadline: Instant
    ) {
        self.start = start
        self.descriptor = .some(descriptor)
        self.type = type
        self.listener = listener
        self.deadline = deadline
    }

    /// Bytes of a command that is not complete.
    var partialByteCount: Int { line.count }

    /// Starts to wait for the command.
    func start(_ loop: EventLoop) throws(SystemCallError) {
        guard let raw = descriptor?.rawValue else { return }
        // All that is there is read, so that what comes later is an edge.
        watch = try loop.watch(raw, [.readable, .readHangUp, .edgeTriggered], self)
    }

    /// Closes the socket.
    func close(_ loop: EventLoop) {
        if let watch, let raw = descriptor?.rawValue { loop.unwatch(watch, raw) }
        watch = nil
        descriptor = nil
    }

    /// Gives the socket away.
    func takeDescriptor(_ loop: EventLoop) -> OwnedFileDescriptor? {
        if let watch, let raw = descriptor?.rawValue { loop.unwatch(watch, raw) }
        watch = nil
        return descriptor.take()
    }

    override func ready(_ events: PollEvents) { listener.ready(self) }

    /// Reads what the client has said; nothing, if it has been closed meanwhile.
    func read() {
        guard let raw = descriptor?.rawValue else { return }
        switch type == .stream ? readLine(raw) : readRecord(raw) {
        case .incomplete: break
        case .left: listener.failed(self, nil)
        case .command(let line):
            do throws(ConnectCommand.Defect) {
                listener.asked(self, type: type, port: try ConnectCommand.parse(line))
            } catch {
                listener.failed(self, error)
            }
        case .tooLong: listener.failed(self, .tooLong)
        }
    }

    private enum Progress {
        case incomplete
        case left
        case tooLong
        case command([UInt8])
    }

    private func readRecord(_ raw: Int32) -> Progress {
        withUnsafeTemporaryAllocation(byteCount: ConnectCommand.maximumByteCount + 1, alignment: 1) { buffer in
            switch DescriptorIO.receive(raw, into: buffer) {
            case .count(0), .failed: return .left
            case .wouldBlock: return .incomplete
            case .count(let count) where count > ConnectCommand.maximumByteCount: return .tooLong
            case .count(let count):
                let record = buffer[..<count]
                return .command(Array(record.last == UInt8(ascii: "\n") ? record.dropLast() : record))
            }
        }
    }

    /// Takes no byte beyond the newline: what follows belongs to the connection.
    private func readLine(_ raw: Int32) -> Progress {
        withUnsafeTemporaryAllocation(byteCount: ConnectCommand.maximumByteCount, alignment: 1) { buffer in
            let room = UnsafeMutableRawBufferPointer(rebasing: buffer[..<(buffer.count - line.count)])
            let seen: Int
            switch DescriptorIO.receive(raw, into: room, flags: .peek) {
            case .count(0), .failed: return .left
            case .wouldBlock: return .incomplete
            case .count(let count): seen = count
            }
            let newline = room[..<seen].firstIndex(of: UInt8(ascii: "\n"))
            let taken = newline.map { $0 + 1 } ?? seen
            guard
                case .count(taken) = DescriptorIO.receive(
                    raw, into: UnsafeMutableRawBufferPointer(rebasing: room[..<taken]))
            else { return .left }
            line.append(contentsOf: room[..<(newline ?? taken)])
            if newline != nil { return .command(line) }
            return line.count >= ConnectCommand.maximumByteCount ? .tooLong : .incomplete
        }
    }
}
