// SPDX-License-Identifier: Apache-2.0
//
// Every rule finds what it is there to find, and nothing beside it: a rule that cannot fail is worth nothing.

import Testing

@Suite("Rules find what they forbid")
struct RuleTests {
    @Test(
        "an import that its layer may not have is found, however it is written",
        arguments: [
            "import Glibc", "public import Foundation", "@testable import VsockTransport",
            "@_exported package import Dispatch", "import struct Glibc.stat", "import Foundation.NSDate",
            "import VsockWire; import Glibc", "\timport\tGlibc",
        ])
    func imports(line: String) throws {
        let core = try #require(Layer.named("VsockCore"))
        let found = SourceRules.imports(sample("import VsockWire\n\(line)\n"), of: core)
        #expect(found.map(\.line) == [2])
    }

    @Test(
        "what only looks like an import is none",
        arguments: ["// import Glibc", "let text = \"import Glibc\"", "/* import Glibc */", "important(Glibc)"])
    func noImports(line: String) throws {
        let core = try #require(Layer.named("VsockCore"))
        #expect(SourceRules.imports(sample(line), of: core) == [])
    }

    @Test("Synchronization is for the queue and not for the core")
    func synchronization() throws {
        let file = sample("import Synchronization\n")
        #expect(SourceRules.imports(file, of: try #require(Layer.named("VirtioQueue"))) == [])
        #expect(SourceRules.imports(file, of: try #require(Layer.named("VsockCore"))).count == 1)
    }

    @Test("the system's own module is for the system layer alone")
    func systemModule() {
        let file = sample("import Glibc\n")
        #expect(Layer.all.filter { SourceRules.imports(file, of: $0).isEmpty }.map(\.name) == ["VsockSystem"])
    }

    @Test(
        "clocks, random sources, threads and output are found in a deterministic layer",
        arguments: [
            "let now = ContinuousClock.now", "let n = UInt32.random(in: 0..<4)", "ports.shuffle()",
            "var g = SystemRandomNumberGenerator()", "func f() async {}", "await f()", "Task { }", "print(header)",
            "let d = Date()", "clock_gettime(CLOCK_MONOTONIC, &t)", "nonisolated(unsafe) var count = 0",
        ])
    func purity(line: String) {
        #expect(SourceRules.purity(sample("let a = 1\n\(line)\n")).map(\.line) == [2])
    }

    @Test(
        "words that contain a forbidden one are allowed",
        arguments: ["let asynchronous = 1", "let blueprint = footprint(1)", "struct TaskList {}", "update(1)"])
    func allowed(line: String) { #expect(SourceRules.purity(sample(line)) == []) }

    @Test("symbols that need no import are found", arguments: ["@_silgen_name(\"open\")", "dlsym(h, n)"])
    func hiddenImports(line: String) { #expect(SourceRules.hiddenImports(sample(line)).count == 1) }

    @Test("a file of 601 lines is too long, one of 600 is not")
    func length() {
        #expect(SourceRules.length(sample(String(repeating: "\n", count: 600))) == [])
        #expect(SourceRules.length(sample(String(repeating: "\n", count: 601))).count == 1)
    }

    @Test(
        "names that say nothing are found",
        arguments: [
            "Utils.swift", "StringUtil.swift", "TestHelpers.swift", "Common.swift", "QueueManager.swift", "Misc.c",
        ])
    func names(name: String) {
        #expect(SourceRules.name(SourceText(path: "Sources/VsockWire/\(name)", "")).count == 1)
    }

    @Test(
        "names that say something are not", arguments: ["Endpoint.swift", "CommonMark.swift", "Endpoint+Receive.swift"])
    func goodNames(name: String) {
        #expect(SourceRules.name(SourceText(path: "Sources/VsockWire/\(name)", "")) == [])
    }

    @Test("a licence is found only where it belongs")
    func licence() {
        let tag = "SPDX-License-Identifier: Apache-2.0"
        #expect(SourceRules.licence(sample("// \(tag)\n")) == [])
        #expect(SourceRules.licence(sample("\n// \(tag)\n")).count == 1)
        #expect(SourceRules.licence(sample("// SPDX-License-Identifier: MIT\n")).count == 1)
        #expect(SourceRules.licence(sample("")).count == 1)
        #expect(SourceRules.licence(SourceText(path: "a.py", "#!/usr/bin/env python3\n# \(tag)\n")) == [])
        #expect(SourceRules.licence(SourceText(path: "a.py", "#!/usr/bin/env python3\nimport os\n")).count == 1)
    }

    @Test(
        "forced tries, forced casts and fatal errors are found", arguments: ["try! f()", "x as! Int", "fatalError()"])
    func traps(line: String) {
        #expect(SourceRules.traps(sample("let a = 1\nlet b = \(line)\n")).map(\.line) == [2])
        #expect(SourceRules.traps(sample("// \(line)\nlet text = \"\(line)\"\n")) == [])
    }

    @Test("markers are found in code and in comments, not in strings", arguments: ["TODO", "FIXME", "XXX", "HACK"])
    func markers(word: String) {
        #expect(SourceRules.markers(sample("// \(word): later\n")).count == 1)
        #expect(SourceRules.markers(sample("/* \(word) */ let a = 1\n")).count == 1)
        #expect(SourceRules.markers(SourceText(path: "Makefile", "# \(word)\n")).count == 1)
        #expect(SourceRules.markers(sample("let text = \"\(word)\"\nlet \(word)_1 = 2\n")) == [])
    }

    @Test(
        "sleeps are found",
        arguments: [
            "sleep(1)", "usleep(10)", "Thread.sleep(forTimeInterval: 1)", "try await Task.sleep(for: .seconds(1))",
        ])
    func sleeps(line: String) {
        #expect(SourceRules.sleeps(sample(line)).count == 1)
        #expect(SourceRules.sleeps(sample("// \(line)")) == [])
    }

    @Test("sleeps of scripts are found")
    func sleepsOfScripts() {
        #expect(SourceRules.sleeps(SourceText(path: "a.py", "time.sleep(1)\n")).count == 1)
        #expect(SourceRules.sleeps(SourceText(path: "a.sh", "sleep 1\n")).count == 1)
    }

    @Test("a manifest whose targets differ from the layers is found")
    func manifest() throws {
        let layers = try [#require(Layer.named("VsockWire")), #require(Layer.named("VsockCore"))]
        let wire = ".target(name: \"VsockWire\", swiftSettings: settings),\n"
        let core = ".target(name: \"VsockCore\", dependencies: [\"VsockWire\"], swiftSettings: settings),\n"
        #expect(Manifest(wire + core).differences(from: layers) == [])
        #expect(Manifest(wire).differences(from: layers) == ["VsockCore is no target"])
        #expect(Manifest(wire + core + ".target(name: \"Other\")").differences(from: layers) == ["Other is no layer"])
        let library = core.replacing("[", with: "[.product(name: \"Logging\", package: \"swift-log\"), ")
        #expect(Manifest(wire + library).differences(from: layers).count == 1)
        let upward = wire.replacing(", swift", with: ", dependencies: [\"VsockCore\"], swift")
        #expect(Manifest(upward + core).differences(from: layers).count == 1)
        #expect(Manifest(".testTarget(name: \"T\", dependencies: [\"A\"])").testTargets == ["T"])
    }
}

@Suite("Views of a source file")
struct SourceTextTests {
    @Test(
        "strings are blank in all their forms, and code after them is not",
        arguments: [
            #""a HIDDEN b""#, ##"#"a "HIDDEN" b"#"##, #""a \(f("HIDDEN")) \" HIDDEN""#,
            "\"\"\"\n  HIDDEN \" HIDDEN\n  \"\"\"", #""\\""#, ###"##"a "# HIDDEN"##"###,
        ])
    func strings(literal: String) {
        let file = sample("let a = \(literal); SEEN\n")
        let code = String(decoding: file.code, as: UTF8.self)
        #expect(!code.contains("HIDDEN"))
        #expect(code.contains("SEEN"))
        #expect(file.code.count == file.all.count)
    }

    @Test("comments nest, and end where they end")
    func comments() {
        let file = sample("/* a /* HIDDEN */ HIDDEN */ SEEN // HIDDEN \"\nSEEN")
        let code = String(decoding: file.code, as: UTF8.self)
        #expect(!code.contains("HIDDEN"))
        #expect(code.split(separator: "SEEN", omittingEmptySubsequences: false).count == 3)
        #expect(file.withoutStrings == file.all)
    }
}

/// A file of the core with this text.
private func sample(_ text: String) -> SourceText { SourceText(path: "Sources/VsockCore/Sample.swift", text) }
