// SPDX-License-Identifier: Apache-2.0

/// Some of a machine's processors, by their numbers from 0 to 8,191: cpu_set_t of CPU_SET(3), in the size that the largest
/// kernels have.
public struct ProcessorSet: Sendable, Equatable {
    private static let capacity = 8192
    static let byteCount = capacity / 8

    /// Bit by bit, in words of the machine's order.
    var words = [UInt](repeating: 0, count: capacity / UInt.bitWidth)

    /// Those of `numbers` that have a name.
    public init(_ numbers: [Int]) {
        for number in numbers where (0..<Self.capacity).contains(number) {
            words[number / UInt.bitWidth] |= 1 << (number % UInt.bitWidth)
        }
    }

    /// All that may be there: a thread that may run on them runs wherever its control group may.
    public static var all: ProcessorSet { ProcessorSet(Array(0..<capacity)) }

    /// Their numbers, in ascending order.
    public var numbers: [Int] {
        (0..<Self.capacity).filter { words[$0 / UInt.bitWidth] & 1 << ($0 % UInt.bitWidth) != 0 }
    }
}
