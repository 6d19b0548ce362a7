// SPDX-License-Identifier: Apache-2.0
// One read from a descriptor into memory of its own, for streams that are copied at the speed of a console.

import VsockSystem

/// What one attempt to read brought.
enum Chunk: Equatable {
    case bytes([UInt8])
    case wouldBlock
    case end

    /// Reads what is there, `limit` bytes at most. Errors count as the end.
    init(reading descriptor: Int32, limit: Int) {
        var result = IOResult.wouldBlock
        let bytes = [UInt8](unsafeUninitializedCapacity: limit) { buffer, count in
            result = DescriptorIO.read(descriptor, into: UnsafeMutableRawBufferPointer(buffer))
            if case .count(let read) = result { count = read }
        }
        switch result {
        case .count(let count): self = count > 0 ? .bytes(bytes) : .end
        case .wouldBlock: self = .wouldBlock
        case .failed: self = .end
        }
    }
}
