// SPDX-License-Identifier: Apache-2.0
//
// What all the programs have in common: a finding ends the process, which is what libFuzzer looks for.

package import FuzzTargets
import Glibc

/// Runs an input; does not come back from one that breaks a rule or loses a descriptor.
package func runOrTrap(_ target: FuzzTarget, _ bytes: UnsafeRawPointer?, _ count: Int) -> CInt {
    let lowest = lowestFreeDescriptor()
    do throws(FuzzFinding) {
        try target.run(UnsafeRawBufferPointer(start: bytes, count: count))
    } catch {
        fatalError("\(target.rawValue): \(error)")
    }
    guard lowestFreeDescriptor() == lowest else { fatalError("\(target.rawValue): a descriptor is lost") }
    return 0
}

/// Rises when a descriptor is not closed; falls when one is closed that was not the target's.
private func lowestFreeDescriptor() -> CInt {
    let descriptor = dup(STDERR_FILENO)
    close(descriptor)
    return descriptor
}
