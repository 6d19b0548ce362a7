// SPDX-License-Identifier: Apache-2.0
//
// What Package.swift says of the targets, read from its text: a manifest cannot be imported.

import Foundation

/// The targets of a manifest.
struct Manifest {
    /// A target that is not a test.
    struct Target: Equatable {
        var name: String
        /// Targets of this package.
        var targets: Set<String> = []
        /// Products of other packages.
        var products: Set<String> = []
    }

    /// The targets in the order of the manifest, but for the examples.
    let targets: [Target]
    /// The targets below Examples.
    let examples: [Target]
    /// The test targets' names.
    let testTargets: Set<String>

    /// Reads a manifest's text.
    init(_ text: String) {
        var targets: [Target] = []
        var examples: [Target] = []
        var tests: Set<String> = []
        let declaration = /\.(target|executableTarget|testTarget)\(/
        let matches = text.matches(of: declaration)
        for (index, match) in matches.enumerated() {
            let end = index + 1 < matches.count ? matches[index + 1].range.lowerBound : text.endIndex
            let body = text[match.range.upperBound..<end]
            guard let name = body.firstMatch(of: /name:\s*"([^"]+)"/)?.1 else { continue }
            if match.1 == "testTarget" {
                tests.insert(String(name))
                continue
            }
            var target = Target(name: String(name))
            if let list = Self.dependencyList(body) {
                target.products = Set(list.matches(of: /\.product\(\s*name:\s*"([^"]+)"/).map { String($0.1) })
                let rest = list.replacing(/\.product\([^)]*\)/, with: "")
                target.targets = Set(rest.matches(of: /"([^"]+)"/).map { String($0.1) })
            }
            if body.contains("path: \"Examples/\(name)\"") {
                examples.append(target)
            } else {
                targets.append(target)
            }
        }
        self.targets = targets
        self.examples = examples
        testTargets = tests
    }

    private static func dependencyList(_ body: Substring) -> Substring? {
        guard let start = body.firstMatch(of: /dependencies:\s*\[/)?.range.upperBound,
            let end = body[start...].firstIndex(of: "]")
        else { return nil }
        return body[start..<end]
    }

    /// Where a manifest and the layers differ.
    func differences(from layers: [Layer]) -> [String] {
        var result: [String] = []
        for target in targets {
            guard let layer = layers.first(where: { $0.name == target.name }) else {
                result.append("\(target.name) is no layer")
                continue
            }
            if target.targets != layer.layers {
                result.append(
                    "\(target.name) depends on \(target.targets.sorted()), its layer is \(layer.layers.sorted())")
            }
            if target.products != layer.libraries {
                result.append(
                    "\(target.name) uses \(target.products.sorted()), its layer \(layer.libraries.sorted())")
            }
        }
        let names = Set(targets.map(\.name))
        for layer in layers where !names.contains(layer.name) { result.append("\(layer.name) is no target") }
        return result
    }
}
