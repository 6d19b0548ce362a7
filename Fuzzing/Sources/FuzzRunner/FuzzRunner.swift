// SPDX-License-Identifier: Apache-2.0
//
// What all the programs have in common: a finding ends the process, which is what libFuzzer looks for.

package import FuzzTargets
import Glibc

/// Runs the inputs of one target, of which a program has one. libFuzzer calls it from one thread.
package final class FuzzRunner: @unchecked Sendable {
    // Unchecked: see above.

    private let target: FuzzTarget
    private let bench = FuzzBench()

    /// A runner that has made what is used from one input to the next.
    package init(_ target: FuzzTarget) {
        self.target = target
        for options in [0, 0x40] as [UInt8] {
            let input = [options]
            input.withUnsafeBytes { try? target.run($0, on: bench) }
        }
    }

    /// Runs an input; does not come back from one that breaks a rule or loses a descriptor.
    package func runOrTrap(_ bytes: UnsafeRawPointer?, _ count: Int) -> CInt {
        // libFuzzer opens some between inputs.
        let lowest = target.usesDescriptors ? Self.lowestFreeDescriptor() : 0
        do throws(FuzzFinding) {
            try target.run(UnsafeRawBufferPointer(start: bytes, count: count), on: bench)
        } catch {
            fatalError("\(target.rawValue): \(error)")
        }
        guard !target.usesDescriptors || Self.lowestFreeDescriptor() == lowest else {
            fatalError("\(target.rawValue): a descriptor is lost")
        }
        return 0
    }

    /// Rises when a descriptor is not closed; falls when one is closed that was not the target's.
    private static func lowestFreeDescriptor() -> CInt {
        let descriptor = dup(STDERR_FILENO)
        close(descriptor)
        return descriptor
    }
}
