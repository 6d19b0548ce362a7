// SPDX-License-Identifier: Apache-2.0
//
// A file as the rules see it. Rules look for words, and a word means something else in a comment or in a string: so
// a Swift file is read in three views of the same length, in which what does not count is blank. Lines stay lines.

import Foundation

/// A text file of the package.
struct SourceText {
    /// Path from the package's root.
    let path: String
    /// Everything.
    let all: [UInt8]
    /// Without the contents of string literals.
    let withoutStrings: [UInt8]
    /// Without string literals and comments.
    let code: [UInt8]

    /// A file of the package, or a sample of one.
    init(path: String, _ text: String) {
        self.path = path
        all = Array(text.utf8)
        guard path.hasSuffix(".swift") else {
            withoutStrings = all
            code = all
            return
        }
        var scanner = LiteralScanner(all)
        scanner.scan()
        withoutStrings = scanner.withoutStrings
        code = scanner.code
    }

    /// The file's name without directory and extension.
    var stem: Substring {
        let name = path.split(separator: "/").last ?? ""
        return name.split(separator: ".").first ?? ""
    }

    /// Lines of the file.
    var lineCount: Int { all.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).count - 1 }

    /// The first lines of the file.
    func firstLines(_ count: Int) -> [String] {
        all.split(separator: UInt8(ascii: "\n"), maxSplits: count, omittingEmptySubsequences: false).prefix(count)
            .map { String(decoding: $0, as: UTF8.self) }
    }
}

/// Tells code, comments and string literals of Swift apart. Knows nested comments, multi-line and raw strings, and
/// interpolations, which it takes for a part of their string. Does not know regex literals.
private struct LiteralScanner {
    let bytes: [UInt8]
    var withoutStrings: [UInt8]
    var code: [UInt8]
    var position = 0

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
        withoutStrings = bytes
        code = bytes
    }

    mutating func scan() {
        while position < bytes.count {
            if starts(with: "//") {
                skipLineComment()
            } else if starts(with: "/*") {
                skipBlockComment()
            } else if !skipString() {
                position += 1
            }
        }
    }

    private func starts(with text: StaticString, at offset: Int = 0) -> Bool {
        let start = position + offset
        guard start + text.utf8CodeUnitCount <= bytes.count else { return false }
        return (0..<text.utf8CodeUnitCount).allSatisfy { bytes[start + $0] == text.utf8Start[$0] }
    }

    private mutating func skipLineComment() {
        while position < bytes.count, bytes[position] != UInt8(ascii: "\n") { blankComment() }
    }

    private mutating func skipBlockComment() {
        var depth = 0
        repeat {
            if starts(with: "/*") {
                depth += 1
                blankComment()
            } else if starts(with: "*/") {
                depth -= 1
                blankComment()
            }
            blankComment()
        } while depth > 0 && position < bytes.count
    }

    /// Skips a string literal that starts here; false when none does.
    private mutating func skipString() -> Bool {
        var poundCount = 0
        while starts(with: "#", at: poundCount) { poundCount += 1 }
        guard starts(with: "\"", at: poundCount) else { return false }
        let isMultiline = starts(with: "\"\"\"", at: poundCount)
        blankString(poundCount + (isMultiline ? 3 : 1))
        while position < bytes.count {
            if starts(with: isMultiline ? "\"\"\"" : "\""), hasPounds(poundCount, at: isMultiline ? 3 : 1) {
                blankString((isMultiline ? 3 : 1) + poundCount)
                return true
            }
            // An unfinished literal: something that this scanner does not know. Its damage ends with the line.
            if !isMultiline, bytes[position] == UInt8(ascii: "\n") { return true }
            if starts(with: "\\"), hasPounds(poundCount, at: 1) {
                blankString(1 + poundCount)
                if starts(with: "(") { skipInterpolation() } else { blankString(1) }
            } else {
                blankString(1)
            }
        }
        return true
    }

    private mutating func skipInterpolation() {
        var depth = 0
        repeat {
            if starts(with: "(") { depth += 1 }
            if starts(with: ")") { depth -= 1 }
            if !skipString() { blankString(1) }
        } while depth > 0 && position < bytes.count
    }

    private func hasPounds(_ count: Int, at offset: Int) -> Bool {
        (0..<count).allSatisfy { starts(with: "#", at: offset + $0) }
    }

    private mutating func blankComment() {
        guard position < bytes.count else { return }
        if bytes[position] != UInt8(ascii: "\n") { code[position] = UInt8(ascii: " ") }
        position += 1
    }

    private mutating func blankString(_ count: Int) {
        for _ in 0..<count where position < bytes.count {
            if bytes[position] != UInt8(ascii: "\n") {
                code[position] = UInt8(ascii: " ")
                withoutStrings[position] = UInt8(ascii: " ")
            }
            position += 1
        }
    }
}
