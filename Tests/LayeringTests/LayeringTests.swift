// SPDX-License-Identifier: Apache-2.0
//
// The rules of the layers and of the files, applied to the package.

import Testing

@Suite("Layers")
struct LayeringTests {
    @Test("every folder of Sources is a layer, and every layer a folder")
    func folders() throws {
        let folders = try SourceTree.folders(in: "Sources")
        #expect(folders.symmetricDifference(Layer.all.map(\.name)) == [])
    }

    @Test("layers name only layers below them")
    func order() {
        var seen: Set<String> = []
        for layer in Layer.all {
            #expect(layer.layers.isSubset(of: seen), "\(layer.name) points up or sideways")
            seen.insert(layer.name)
        }
    }

    @Test("a layer imports only what it may", arguments: Layer.all.map(\.name))
    func imports(name: String) throws {
        let layer = try #require(Layer.named(name))
        let files = try SourceTree.files(below: "Sources/\(name)", ["swift"])
        #expect(files.flatMap { SourceRules.imports($0, of: layer) } == [])
        #expect(files.flatMap(SourceRules.hiddenImports) == [])
    }

    @Test(
        "a deterministic layer has no clock, no random source and no thread",
        arguments: Layer.all.filter(\.isPure).map(\.name))
    func purity(name: String) throws {
        let files = try SourceTree.files(below: "Sources/\(name)", ["swift"])
        #expect(!files.isEmpty)
        #expect(files.flatMap(SourceRules.purity) == [])
    }

    @Test("the manifest says the same as the layers, and knows every test folder")
    func manifest() throws {
        let text = String(decoding: try SourceTree.file("Package.swift").all, as: UTF8.self)
        let manifest = Manifest(text)
        #expect(manifest.differences(from: Layer.all) == [])
        #expect(try SourceTree.folders(in: "Tests").symmetricDifference(manifest.testTargets) == [])
    }
}

@Suite("Examples")
struct ExampleRuleTests {
    @Test("an example is a target that uses the product and nothing else")
    func targets() throws {
        let manifest = Manifest(String(decoding: try SourceTree.file("Package.swift").all, as: UTF8.self))
        #expect(try SourceTree.folders(in: "Examples") == Set(manifest.examples.map(\.name)))
        for example in manifest.examples {
            #expect(example.targets == ["Vsock"] && example.products == [], "\(example.name)")
        }
        let files = try SourceTree.files(below: "Examples", ["swift"])
        #expect(!files.isEmpty)
        #expect(files.flatMap { SourceRules.imports($0, of: .example) } == [])
    }
}

@Suite("Files")
struct FileTests {
    private static let sourceKinds: Set<String> = ["swift", "c", "h"]
    private static let testKinds: Set<String> = ["swift", "c", "h", "py", "sh"]

    @Test("no file of Sources is longer than can be read at once")
    func length() throws {
        #expect(try SourceTree.files(below: "Sources", Self.sourceKinds).flatMap(SourceRules.length) == [])
    }

    @Test("every file's name says what it holds", arguments: ["Sources", "Tests", "Fuzzing/Sources"])
    func names(folder: String) throws {
        #expect(try SourceTree.files(below: folder, Self.testKinds).flatMap(SourceRules.name) == [])
    }

    @Test("every file names its licence", arguments: ["Sources", "Tests", "Examples", "Scripts", "Fuzzing/Sources"])
    func licence(folder: String) throws {
        #expect(try SourceTree.files(below: folder, Self.testKinds).flatMap(SourceRules.licence) == [])
    }

    @Test("nothing is left for later", arguments: ["Sources", "Tests", "Examples", "Scripts", "Fuzzing/Sources"])
    func markers(folder: String) throws {
        #expect(try SourceTree.files(below: folder, Self.testKinds).flatMap(SourceRules.markers) == [])
    }

    @Test(
        "nothing is left for later in the build",
        arguments: ["Package.swift", "Fuzzing/Package.swift", "Makefile", ".ci/run"])
    func markersOfBuild(path: String) throws {
        #expect(SourceRules.markers(try SourceTree.file(path)) == [])
    }

    @Test(
        "nothing ends the process on purpose",
        arguments: ["Sources", "Tests", "Examples", "Fuzzing/Sources/FuzzTargets"])
    func traps(folder: String) throws {
        #expect(try SourceTree.files(below: folder, ["swift"]).flatMap(SourceRules.traps) == [])
    }

    @Test("no test sleeps")
    func sleeps() throws {
        #expect(try SourceTree.files(below: "Tests", Self.testKinds).flatMap(SourceRules.sleeps) == [])
    }
}
