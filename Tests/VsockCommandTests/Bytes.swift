// SPDX-License-Identifier: Apache-2.0
//
// Bytes in and out of descriptors that do not block, with the deadline of every wait, and bytes to send.

import Glibc
import Synchronization
import Testing
import VsockSystem
import VsockTestSupport

/// Waits until a descriptor is ready.
func waitUntil(_ descriptor: Int32, _ events: PollEvents) throws {
    let ready = try DescriptorIO.waitUntilReady(descriptor, for: events, timeoutNanoseconds: testDeadline)
    if ready.isEmpty { throw Deadline() }
}

/// Asks again and again, for what nothing tells.
func poll(_ condition: () throws -> Bool) throws {
    let end = MonotonicClock.now() + testDeadline
    while try !condition() {
        if MonotonicClock.now() > end { throw Deadline() }
        sched_yield()
    }
}

/// Writes everything. Pipes, files and sockets; SIGPIPE is the caller's matter.
func writeAll(_ descriptor: Int32, _ bytes: [UInt8]) throws {
    try bytes.withUnsafeBytes { try writeAll(descriptor, $0) }
}

func writeAll(_ descriptor: Int32, _ text: String) throws { try writeAll(descriptor, Array(text.utf8)) }

func writeAll(_ descriptor: Int32, _ bytes: UnsafeRawBufferPointer) throws {
    var rest = bytes
    while !rest.isEmpty {
        switch DescriptorIO.write(descriptor, from: rest) {
        case .count(let count): rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        case .wouldBlock: try waitUntil(descriptor, .writable)
        case .failed(let errno): throw errno
        }
    }
}

/// Reads once, at most `capacity` bytes; a record, if the socket has records.
func readOnce(_ descriptor: Int32, upTo capacity: Int = 1 << 20) throws -> [UInt8] {
    while true {
        var result = IOResult.wouldBlock
        let bytes = [UInt8](unsafeUninitializedCapacity: capacity) { buffer, count in
            result = DescriptorIO.read(descriptor, into: UnsafeMutableRawBufferPointer(buffer))
            if case .count(let read) = result { count = read }
        }
        switch result {
        case .count: return bytes
        case .wouldBlock: try waitUntil(descriptor, .readable)
        case .failed(let errno): throw errno
        }
    }
}

/// Reads so many bytes of a stream, fewer only at its end.
func read(_ descriptor: Int32, count: Int) throws -> [UInt8] {
    var bytes: [UInt8] = []
    while bytes.count < count {
        let part = try readOnce(descriptor, upTo: count - bytes.count)
        if part.isEmpty { break }
        bytes += part
    }
    return bytes
}

func readText(_ descriptor: Int32, count: Int) throws -> String {
    String(decoding: try read(descriptor, count: count), as: UTF8.self)
}

/// Reads text until it contains a word.
func readText(_ descriptor: Int32, until word: String) throws -> String {
    var text = ""
    while !text.contains(word) {
        let bytes = try readOnce(descriptor)
        if bytes.isEmpty { throw Deadline() }
        text += String(decoding: bytes, as: UTF8.self)
    }
    return text
}

/// Reads to the end of a stream.
func readAll(_ descriptor: Int32) throws -> [UInt8] {
    var bytes: [UInt8] = []
    while true {
        let part = try readOnce(descriptor)
        if part.isEmpty { return bytes }
        bytes += part
    }
}

func readAllText(_ descriptor: Int32) throws -> String {
    String(decoding: try readAll(descriptor), as: UTF8.self)
}

/// SplitMix64: the same numbers from the same seed everywhere.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
        return value ^ (value >> 31)
    }

    /// Bytes, none of them `excluded`.
    mutating func bytes(_ count: Int, excluding excluded: UInt8? = nil) -> [UInt8] {
        var bytes = [UInt8](unsafeUninitializedCapacity: count + 8) { buffer, initialized in
            let raw = UnsafeMutableRawBufferPointer(buffer)
            var offset = 0
            while offset < count {
                raw.storeBytes(of: next(), toByteOffset: offset, as: UInt64.self)
                offset += 8
            }
            initialized = count
        }
        if let excluded {
            for index in bytes.indices where bytes[index] == excluded { bytes[index] = excluded &+ 1 }
        }
        return bytes
    }
}

/// Runs a closure on a thread, and says later what it returned or threw.
final class Background<Value: Sendable>: Sendable {
    // What the thread keeps: not this object, whose end waits for the thread.
    private final class Outcome: Sendable {
        let result = Mutex<Result<Value, any Error>?>(nil)
    }

    private let thread: WorkerThread
    private let outcome = Outcome()

    init(_ body: @escaping @Sendable () throws -> Value) throws {
        let outcome = outcome
        thread = try WorkerThread(name: "background") {
            let result = Result { try body() }
            outcome.result.withLock { $0 = result }
        }
    }

    /// Waits; the closure's own waits have deadlines.
    func value() throws -> Value {
        thread.join()
        return try #require(outcome.result.withLock { $0 }).get()
    }

    deinit { thread.join() }
}
