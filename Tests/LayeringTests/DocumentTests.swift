// SPDX-License-Identifier: Apache-2.0
//
// What the documents name has to exist: the tests that Documentation/Conformance.md gives as evidence, and the limits
// that Documentation/Architecture.md lists.

import Testing

@Suite("Documents")
struct DocumentTests {
    @Test("every test that the conformance tables name exists")
    func names() throws {
        let tables = String(decoding: try SourceTree.file("Documentation/Conformance.md").all, as: UTF8.self)
        let sources = try SourceTree.files(below: "Tests", ["swift"]).map { String(decoding: $0.all, as: UTF8.self) }
        let named = Self.quotedTests(in: tables)
        #expect(named.count > 50)
        #expect(Self.missing(named, from: sources.joined()) == [])
    }

    @Test("a name that no test has is found")
    func missing() {
        let table = "| clause | tests | result |\n|---|---|---|\n| `code` | `one`, `two` | `three` |\nbeside `four`\n"
        #expect(Self.quotedTests(in: table) == ["one", "two"])
        #expect(Self.missing(["one", "two"], from: "@Test(\"one\") @Test(\"two or more\")") == ["two"])
    }

    @Test("every limit that the architecture lists is declared")
    func limits() throws {
        let text = String(decoding: try SourceTree.file("Documentation/Architecture.md").all, as: UTF8.self)
        let code = try SourceTree.files(below: "Sources", ["swift"]).map { String(decoding: $0.code, as: UTF8.self) }
        let named = Self.listedLimits(in: text)
        #expect(named.count > 25)
        #expect(Self.undeclared(named, in: code.joined()) == [])
    }

    @Test("a limit that is not declared is found")
    func undeclared() {
        let table =
            "| limit |\n|---|\n| `Queue.size` | 1 |\n| `A.B.count` | 2 |\n| backlog | 3 |\n| `Table`, all | 4 |\n"
        #expect(Self.listedLimits(in: table) == ["size", "count"])
        #expect(Self.undeclared(["size", "count"], in: "let size = 1\nlet counter = count") == ["count"])
    }

    @Test("every piece of Swift in the documents stands in an example, which is built and run")
    func snippets() throws {
        let examples = try SourceTree.files(below: "Examples", ["swift"]).map { Self.lines($0.all) }
        let documents =
            try SourceTree.files(below: "Sources/Vsock/Vsock.docc", ["md"])
            + [SourceTree.file("README.md"), SourceTree.file("Examples/README.md")]
        let snippets = documents.flatMap { Self.snippets(in: Self.lines($0.all)) }
        #expect(snippets.count > 5)
        for snippet in snippets { #expect(examples.contains { Self.contains($0, snippet) }, "\(snippet)") }
    }

    @Test("a piece of Swift that no example has is found")
    func foreignSnippet() {
        let snippets = Self.snippets(in: ["```swift", "a", "b", "```", "```sh", "c", "```", "```swift", "d", "```"])
        #expect(snippets == [["a", "b"], ["d"]])
        #expect(Self.contains(["x", "a", "b", "c"], ["a", "b"]))
        #expect(!Self.contains(["a", "x", "b"], ["a", "b"]))
    }

    /// A text's lines, without indentation and without empty ones.
    private static func lines(_ text: [UInt8]) -> [String] {
        String(decoding: text, as: UTF8.self).split(separator: "\n")
            .map { String($0.drop { $0 == " " }) }.filter { !$0.isEmpty }
    }

    /// The blocks of a document that say they are Swift.
    private static func snippets(in lines: [String]) -> [[String]] {
        var found: [[String]] = []
        var open: [String]?
        for line in lines {
            if line.hasPrefix("```") {
                if let block = open { found.append(block) }
                open = open == nil && line == "```swift" ? [] : nil
            } else {
                open?.append(line)
            }
        }
        return found
    }

    /// Whether `lines` has all of `part`, one line after the other.
    private static func contains(_ lines: [String], _ part: [String]) -> Bool {
        guard lines.count >= part.count else { return false }
        return (0...(lines.count - part.count)).contains { Array(lines[$0..<($0 + part.count)]) == part }
    }

    /// What stands in backquotes in the second column of the tables.
    private static func quotedTests(in text: String) -> [String] {
        text.split(separator: "\n").filter { $0.hasPrefix("|") }.flatMap { line in
            let columns = line.split(separator: "|", omittingEmptySubsequences: false)
            guard columns.count == 5 else { return [String]() }
            let parts = columns[2].split(separator: "`", omittingEmptySubsequences: false)
            return stride(from: 1, to: parts.count, by: 2).map { String(parts[$0]) }
        }
    }

    /// The last part of each qualified name that begins a row of a table.
    private static func listedLimits(in text: String) -> [String] {
        text.split(separator: "\n").filter { $0.hasPrefix("| `") }.compactMap { line in
            let name = line.dropFirst(3).prefix { $0 != "`" }
            return name.contains(".") ? name.split(separator: ".").last.map(String.init) : nil
        }
    }

    /// The names that no declaration has.
    private static func undeclared(_ names: [String], in code: String) -> [String] {
        let words = code.split { !$0.isLetter && !$0.isNumber && $0 != "_" }
        let declared = Set(zip(words, words.dropFirst()).filter { $0.0 == "let" || $0.0 == "var" }.map(\.1))
        return names.filter { !declared.contains(Substring($0)) }
    }

    /// The names that stand nowhere in the sources as a whole string.
    private static func missing(_ names: [String], from sources: String) -> [String] {
        let strings = Set(sources.split(separator: "\"", omittingEmptySubsequences: false))
        return names.filter { !strings.contains(Substring($0)) }
    }
}
