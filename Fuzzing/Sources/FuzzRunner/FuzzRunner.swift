// SPDX-License-Identifier: Apache-2.0
//
// What all the programs have in common: a finding ends the process, which is what libFuzzer looks for.

package import FuzzTargets
import Glibc

/// Runs the inputs of one target, of which a program has one. libFuzzer calls it from one thread.
package final class FuzzRunner: @unchecked Sendable {
    // Unchecked: see above.

    private let target: FuzzTarget
    private let bench = FuzzBench(.model)
    /// Which of Linux's descriptors, from 0 on, are open between inputs; as far as an input with a few of them comes.
    private var isOpenBetween: [Bool] = []

    private static let watchedFreeCount = 2

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
        if target.usesDescriptors { watchDescriptors() }
        do throws(FuzzFinding) {
            try target.run(UnsafeRawBufferPointer(start: bytes, count: count), on: bench)
        } catch {
            fatalError("\(target.rawValue): \(error)")
        }
        for (descriptor, wasOpen) in isOpenBetween.enumerated() where Self.isOpen(descriptor) != wasOpen {
            fatalError("\(target.rawValue): descriptor \(descriptor) \(wasOpen ? "was not the input's" : "is lost")")
        }
        return 0
    }

    /// Looks again when libFuzzer has opened one.
    private func watchDescriptors() {
        if let lowestFree = isOpenBetween.firstIndex(of: false), !Self.isOpen(lowestFree) { return }
        isOpenBetween = []
        var freeCount = 0
        while freeCount < Self.watchedFreeCount {
            let isOpen = Self.isOpen(isOpenBetween.count)
            isOpenBetween.append(isOpen)
            if !isOpen { freeCount += 1 }
        }
    }

    private static func isOpen(_ descriptor: Int) -> Bool { fcntl(CInt(descriptor), F_GETFD) >= 0 }
}
