// SPDX-License-Identifier: Apache-2.0

/// Bytes for cases, and the sum by which the sides compare them.
enum TestData {
    /// The size of a page, in which the kernel's program counts.
    static let pageByteCount = 4096

    /// Bytes that nobody expects.
    static func random(_ count: Int) -> [UInt8] {
        (0..<count).map { _ in UInt8.random(in: 0...255) }
    }

    /// djb2, in 64 bits as on the machines that vsock_test runs on.
    static func hash(_ bytes: [UInt8]) -> UInt64 {
        bytes.reduce(5381) { $0 &* 33 &+ UInt64($1) }
    }
}
