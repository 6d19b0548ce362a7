// SPDX-License-Identifier: Apache-2.0
//
// What several tests need: files in a directory of their own, bytes in and out of descriptors.

import Glibc
import Testing
import VsockSystem
import VsockTestSupport

extension TemporaryDirectory {
    func file(_ name: String) -> String { "\(path)/\(name)" }

    func exists(_ name: String) -> Bool { access(file(name), F_OK) == 0 }

    func mode(_ name: String) -> UInt32? {
        var status = stat()
        return lstat(file(name), &status) == 0 ? status.st_mode & 0o7777 : nil
    }
}

func send(_ text: String, to descriptor: Int32) -> IOResult {
    Array(text.utf8).withUnsafeBytes { DescriptorIO.send(descriptor, from: $0) }
}

func write(_ text: String, to descriptor: Int32) -> IOResult {
    Array(text.utf8).withUnsafeBytes { DescriptorIO.write(descriptor, from: $0) }
}

/// What one read returns, nil if it did not return bytes or end of file.
func read(from descriptor: Int32, upTo capacity: Int = 4096) -> String? {
    var buffer = [UInt8](repeating: 0, count: capacity)
    guard case .count(let count) = buffer.withUnsafeMutableBytes({ DescriptorIO.read(descriptor, into: $0) }) else {
        return nil
    }
    return String(decoding: buffer[..<count], as: UTF8.self)
}

/// Everything until end of file, which must come before the deadline.
func readAll(from descriptor: Int32) throws -> String {
    var text = ""
    while true {
        let ready = try DescriptorIO.waitUntilReady(descriptor, for: .readable, timeoutNanoseconds: testDeadline)
        try #require(!ready.isEmpty, "no end of file")
        let part = try #require(read(from: descriptor))
        if part.isEmpty { return text }
        text += part
    }
}

/// True once every write end of the pipe is closed. Waits, because a child that another test is just starting holds
/// all descriptors until it execs.
func isAtEndOfFile(_ readEnd: Int32) throws -> Bool {
    let ready = try DescriptorIO.waitUntilReady(readEnd, for: .readable, timeoutNanoseconds: testDeadline)
    return !ready.isEmpty && read(from: readEnd) == ""
}

/// The error that a system call threw, nil if it did not throw.
func failure(_ body: () throws(SystemCallError) -> Void) -> SystemCallError? {
    do {
        try body()
        return nil
    } catch {
        return error
    }
}

/// A socket file without a listener, as a process that died leaves it.
func leaveStaleSocket(at path: String, type: Int32 = UnixSocketType.stream.rawValue) throws {
    let descriptor = socket(AF_UNIX, type, 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    let result = withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
        }
    }
    close(descriptor)
    try #require(result == 0)
}
