// SPDX-License-Identifier: Apache-2.0
//
// What lies in a socket, and where it goes when it is read.

/// What one send has left in a socket.
struct ModelMessage {
    private let bytes: [UInt8]
    private var start = 0
    /// Descriptors that came with it; none behind its first byte.
    private(set) var files: [PassedFile]

    init(bytes: [UInt8], files: [PassedFile]) {
        self.bytes = bytes
        self.files = files
    }

    var unread: ArraySlice<UInt8> { bytes[start...] }
    var unreadByteCount: Int { bytes.count - start }

    /// Takes as many bytes off the front as there is room for, and the descriptors with them.
    mutating func take(into buffer: UnsafeMutableRawBufferPointer, files: inout [PassedFile]) -> Int {
        let count = min(unreadByteCount, buffer.count)
        bytes.withUnsafeBytes { source in
            guard let target = buffer.baseAddress, let base = source.baseAddress else { return }
            target.copyMemory(from: base + start, byteCount: count)
        }
        start += count
        if !self.files.isEmpty { swap(&files, &self.files) }
        return count
    }
}

/// Fills segments one after another; returns how many bytes had room.
@discardableResult
func scatter(_ bytes: UnsafeRawBufferPointer, to segments: [UnsafeMutableRawBufferPointer]) -> Int {
    var rest = bytes
    for segment in segments where !rest.isEmpty {
        let count = min(rest.count, segment.count)
        segment.copyMemory(from: UnsafeRawBufferPointer(rebasing: rest[..<count]))
        rest = UnsafeRawBufferPointer(rebasing: rest[count...])
    }
    return bytes.count - rest.count
}
