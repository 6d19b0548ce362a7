// SPDX-License-Identifier: Apache-2.0

/// Bytes for cases, and the sum by which the sides compare them.
enum TestData {
    /// The size of a page, in which the kernel's program counts.
    static let pageByteCount = 4096

    /// Bytes that nobody expects. A random number of the system is a system call, so each makes eight bytes.
    static func random(_ count: Int) -> [UInt8] {
        let words = (0..<((count + 7) / 8)).map { _ in UInt64.random(in: .min ... .max) }
        return words.withUnsafeBytes { Array($0[..<count]) }
    }

    /// djb2, in 64 bits as on the machines that vsock_test runs on.
    static func hash(_ bytes: [UInt8]) -> UInt64 {
        bytes.reduce(5381) { $0 &* 33 &+ UInt64($1) }
    }
}
