// SPDX-License-Identifier: Apache-2.0
//
// What all the programs have in common: a finding ends the process, which is what libFuzzer looks for.

package import FuzzTargets

/// Runs an input; does not come back from one that breaks a rule.
package func runOrTrap(_ target: FuzzTarget, _ bytes: UnsafeRawPointer?, _ count: Int) -> CInt {
    do throws(FuzzFinding) {
        try target.run(UnsafeRawBufferPointer(start: bytes, count: count))
        return 0
    } catch {
        fatalError("\(target.rawValue): \(error)")
    }
}
