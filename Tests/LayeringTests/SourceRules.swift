// SPDX-License-Identifier: Apache-2.0
//
// The rules, each a function from a file to what is wrong with it, so that a sample can show that it finds something.

/// What is wrong, and where.
struct Violation: Equatable, CustomStringConvertible {
    var path: String
    var line: Int
    var message: String

    var description: String { "\(path):\(line): \(message)" }
}

enum SourceRules {
    // MARK: Layers

    /// A file imports only what its layer may import.
    static func imports(_ file: SourceText, of layer: Layer) -> [Violation] {
        let allowed = layer.imports
        return imports(of: file).filter { !allowed.contains($0.module) }.map {
            Violation(path: file.path, line: $0.line, message: "\(layer.name) must not import \($0.module)")
        }
    }

    /// A deterministic layer has no clock, random source, thread or output of its own.
    static func purity(_ file: SourceText) -> [Violation] {
        let words = [
            // Clocks.
            "ContinuousClock", "SuspendingClock", "DispatchTime", "Date(", "clock_gettime", "gettimeofday",
            // Random sources.
            "SystemRandomNumberGenerator", "random(", "randomElement(", "shuffle(", "shuffled(", "getrandom",
            // Threads and tasks.
            "async", "await", "actor", "Task", "Thread", "DispatchQueue", "pthread_create", "nonisolated(unsafe)",
            // Output, input, environment.
            "print(", "debugPrint(", "dump(", "readLine(", "CommandLine",
        ]
        return find(words, in: file.code, of: file) { "\($0) in a layer that must be deterministic" }
    }

    /// Nothing reaches a symbol of another module without an import.
    static func hiddenImports(_ file: SourceText) -> [Violation] {
        find(["@_silgen_name", "@_extern", "dlsym("], in: file.code, of: file) { "\($0) goes round the layers" }
    }

    // MARK: Files

    /// Lines that a file of Sources may have.
    static let maximumLineCount = 600

    /// A file is small enough to be read at once.
    static func length(_ file: SourceText) -> [Violation] {
        guard file.lineCount > maximumLineCount else { return [] }
        return [
            Violation(
                path: file.path, line: file.lineCount, message: "\(file.lineCount) lines, over \(maximumLineCount)")
        ]
    }

    /// A file's name says what it holds.
    static func name(_ file: SourceText) -> [Violation] {
        let vague = ["Utils", "Util", "Helpers", "Helper", "Common", "Manager", "Misc"]
        guard let suffix = vague.first(where: { file.stem.hasSuffix($0) }) else { return [] }
        return [Violation(path: file.path, line: 1, message: "\"\(suffix)\" does not say what the file holds")]
    }

    /// A file names its licence: in its first line, or after the line that names its interpreter.
    static func licence(_ file: SourceText) -> [Violation] {
        let tag = "SPDX-License-Identifier: Apache-2.0"
        let lines = file.firstLines(2)
        let isScript = lines.first?.hasPrefix("#!") == true
        let expected = file.path.hasSuffix(".py") || file.path.hasSuffix(".sh") ? "# \(tag)" : "// \(tag)"
        guard (isScript ? lines.last : lines.first) != expected else { return [] }
        return [Violation(path: file.path, line: isScript ? 2 : 1, message: "must be \"\(expected)\"")]
    }

    // MARK: Code

    /// Nothing traps on purpose that could return an error.
    static func traps(_ file: SourceText) -> [Violation] {
        find(["try!", "as!", "fatalError("], in: file.code, of: file) { "\($0) ends the process" }
    }

    /// Nothing is left for later in the text.
    static func markers(_ file: SourceText) -> [Violation] {
        find(["TODO", "FIXME", "XXX", "HACK"], in: file.withoutStrings, of: file) { "\($0): finish it or drop it" }
    }

    /// A test waits for a condition with a deadline, never for a time.
    static func sleeps(_ file: SourceText) -> [Violation] {
        let words =
            ["sleep(", "usleep(", "nanosleep(", "clock_nanosleep("] + (file.path.hasSuffix(".sh") ? ["sleep"] : [])
        return find(words, in: file.code, of: file) { "\($0): wait for a condition, with a deadline" }
    }

    // MARK: Parts

    /// The modules that a file imports, with their lines.
    static func imports(of file: SourceText) -> [(module: String, line: Int)] {
        let declarationKinds: Set<Substring> = [
            "struct", "class", "enum", "protocol", "typealias", "func", "let", "var",
        ]
        var result: [(String, Int)] = []
        let lines = file.code.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        for (index, line) in lines.enumerated() {
            for statement in line.split(separator: UInt8(ascii: ";")) {
                let words = String(decoding: statement, as: UTF8.self).split { $0 == " " || $0 == "\t" }
                guard let keyword = words.firstIndex(of: "import"),
                    words[..<keyword].allSatisfy({ $0.hasPrefix("@") || accessLevels.contains($0) })
                else { continue }
                let path = words[(keyword + 1)...].first { !declarationKinds.contains($0) }
                if let module = path?.split(separator: ".").first { result.append((String(module), index + 1)) }
            }
        }
        return result
    }

    private static let accessLevels: Set<Substring> = ["public", "package", "internal", "fileprivate", "private"]

    /// Finds whole words: what begins or ends with a letter is not a part of a longer name.
    private static func find(
        _ words: [String], in text: [UInt8], of file: SourceText, _ message: (String) -> String
    ) -> [Violation] {
        var result: [Violation] = []
        for word in words {
            let pattern = Array(word.utf8)
            guard let first = pattern.first, let last = pattern.last, text.count >= pattern.count else { continue }
            var line = 1
            for start in 0...(text.count - pattern.count) {
                if text[start] == UInt8(ascii: "\n") { line += 1 }
                guard text[start] == first, text[start..<(start + pattern.count)].elementsEqual(pattern) else {
                    continue
                }
                if isNamePart(first), start > 0, isNamePart(text[start - 1]) { continue }
                let end = start + pattern.count
                if isNamePart(last), end < text.count, isNamePart(text[end]) { continue }
                result.append(Violation(path: file.path, line: line, message: message(word)))
            }
        }
        return result
    }

    private static func isNamePart(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: "_") || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
            || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
    }
}
