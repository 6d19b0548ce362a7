// SPDX-License-Identifier: Apache-2.0
// Carries any bytes and an end of file through a terminal line in canonical mode: the only input that a User Mode Linux
// guest has from a descriptor of the host. The guest switches off every special character but two: EOF (^D), which
// hands over what was typed so far or, on an empty line, ends the file, and LNEXT (^V), which takes the next byte literally.
// Invariant: a chunk is one line, so that one read(2) takes it and a lone EOF after it ends the file; and it leaves so
// much of the kernel's buffer of 4,096 bytes that the line is not throttled (below 128 bytes).

/// Encodes standard input for a guest's terminal line.
package enum TerminalInputEncoder {
    /// The most bytes that one chunk may carry.
    package static let chunkSizeMax = 3584
    /// What ends the file.
    package static let endOfFile: [UInt8] = [eof]

    private static let eof: UInt8 = 0x04
    private static let literalNext: UInt8 = 0x16
    private static let newline = UInt8(ascii: "\n")

    /// Encodes one chunk, not empty, of `chunkSizeMax` bytes at most.
    package static func encode(_ chunk: ArraySlice<UInt8>) -> [UInt8] {
        precondition(!chunk.isEmpty && chunk.count <= chunkSizeMax)
        var encoded: [UInt8] = []
        encoded.reserveCapacity(chunk.count * 2 + 1)
        for byte in chunk {
            if byte == eof || byte == literalNext || byte == newline { encoded.append(literalNext) }
            encoded.append(byte)
        }
        encoded.append(eof)
        return encoded
    }
}
