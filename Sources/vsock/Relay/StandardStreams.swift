// SPDX-License-Identifier: Apache-2.0
//
// Standard input and output of a relay. Their modes are never changed: they are shared with the shell and with other
// processes. Input is read when it is readable, so that a relay can stop waiting for it without losing a byte.

import ArgumentParser
import VsockSystem

/// Standard input, with an end that another thread may bring about.
struct StandardInput: ~Copyable {
    /// What a read brought.
    enum Piece: Equatable {
        case bytes(Int)
        case end
        /// Someone has asked to stop.
        case stopped
        case failed(Errno)
    }

    static let rawDescriptor: Int32 = 0

    private let poller: Poller
    private let stop: EventNotifier
    private var events = PollEventBuffer(capacity: 2)
    /// Files and some devices are always readable, and epoll does not take them.
    private let isAlwaysReadable: Bool

    private static let stopToken: UInt64 = 1
    private static let inputToken: UInt64 = 0

    /// Input until `stop` is signalled.
    init(stop: EventNotifier) throws(SystemCallError) {
        let poller = try Poller()
        try poller.add(stop.rawDescriptor, .readable, token: Self.stopToken)
        isAlwaysReadable = try !Self.watch(poller)
        self.poller = poller
        self.stop = stop
    }

    /// False if epoll does not take standard input.
    private static func watch(_ poller: borrowing Poller) throws(SystemCallError) -> Bool {
        do {
            try poller.add(rawDescriptor, .readable, token: inputToken)
            return true
        } catch {
            guard error.errno == .notPermitted else { throw error }
            return false
        }
    }

    /// Waits for input, and reads once.
    mutating func read(into room: UnsafeMutableRawBufferPointer) -> Piece {
        while true {
            do {
                let count = try poller.wait(into: &events, timeoutNanoseconds: isAlwaysReadable ? 0 : nil)
                for index in 0..<count where events[index].token == Self.stopToken { return .stopped }
            } catch {
                return .failed(error.errno)
            }
            switch DescriptorIO.read(Self.rawDescriptor, into: room) {
            case .count(0): return .end
            case .count(let count): return .bytes(count)
            case .wouldBlock: continue
            case .failed(let errno): return .failed(errno)
            }
        }
    }

    /// Whether there is input that nobody will read. Takes some of it.
    static func hasUnreadBytes() -> Bool {
        let events = try? DescriptorIO.waitUntilReady(rawDescriptor, for: .readable, timeoutNanoseconds: 0)
        guard events?.contains(.readable) == true else { return false }
        return withUnsafeTemporaryAllocation(byteCount: 1, alignment: 1) { buffer in
            DescriptorIO.read(rawDescriptor, into: buffer) == .count(1)
        }
    }
}

/// Standard output.
enum StandardOutput {
    static let rawDescriptor: Int32 = 1

    /// Writes everything. When nobody reads any more, the command ends with status 1 and says nothing.
    static func write(_ bytes: UnsafeRawBufferPointer) throws {
        var rest = bytes
        while !rest.isEmpty {
            switch DescriptorIO.write(rawDescriptor, from: rest) {
            case .count(let count): rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            case .wouldBlock:
                _ = try DescriptorIO.waitUntilReady(rawDescriptor, for: .writable, timeoutNanoseconds: nil)
            case .failed(.brokenPipe): throw ExitCode.failure
            case .failed(let errno): throw Failure("standard output cannot be written: \(errno)")
            }
        }
    }
}

/// Checks before anything is opened.
enum StandardStreams {
    /// A socket would take the number of a standard stream that is closed, and be read as that stream.
    static func requireOpen() throws {
        for (descriptor, name) in [(StandardInput.rawDescriptor, "input"), (StandardOutput.rawDescriptor, "output")] {
            do {
                _ = try SocketOptions.unreadByteCount(descriptor)
            } catch  where error.errno == .badFileDescriptor {
                throw Failure("standard \(name) is closed: give it a file, /dev/null if there is none")
            } catch {
                // It is open, whatever it is.
            }
        }
    }
}
