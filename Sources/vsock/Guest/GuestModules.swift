// SPDX-License-Identifier: Apache-2.0
// Which module files a guest inserts, in which order: the wanted modules after everything they need, from the kernel's
// own modules.dep and modules.builtin (depmod(8), modules.dep(5)).

import VsockSystem

/// The modules of one kernel.
package struct GuestModules {
    private let directory: String?
    private var path: [String: String] = [:]
    private var needs: [String: [String]] = [:]
    private var builtIn: Set<String> = []

    /// Reads a kernel's lists. A kernel without modules has everything built in, as far as we can tell.
    package init(directory: String?) throws(GuestError) {
        guard let directory else {
            self.init(directory: nil, dependencies: [], builtIn: [])
            return
        }
        self.init(
            directory: directory, dependencies: try HostFile.lines(directory + "/modules.dep"),
            builtIn: try HostFile.lines(directory + "/modules.builtin"))
    }

    /// For the lists' content, one line each.
    init(directory: String?, dependencies: [Substring], builtIn: [Substring]) {
        self.directory = directory
        for line in dependencies {
            let parts = line.split(separator: ":", maxSplits: 1)
            guard let file = parts.first else { continue }
            let name = Self.name(file)
            path[name] = String(file)
            needs[name] = parts.dropFirst().first?.split(separator: " ").map { Self.name($0) } ?? []
        }
        self.builtIn = Set(builtIn.map { Self.name($0) })
    }

    /// The files to insert, in order, for these modules; what is built in needs none.
    ///
    /// - Throws: `moduleNotFound` for a wanted module that the kernel has in no form.
    package func files(for wanted: [String]) throws(GuestError) -> [String] {
        guard let directory else { return [] }
        var order: [String] = []
        for name in wanted.map({ Self.name($0[...]) }) {
            guard path[name] != nil || builtIn.contains(name) else {
                throw .moduleNotFound(name: name, directory: directory)
            }
            visit(name, into: &order)
        }
        return order.compactMap { path[$0] }.map { $0.hasPrefix("/") ? $0 : directory + "/" + $0 }
    }

    /// Whether the kernel can have this module.
    package func has(_ name: String) -> Bool {
        directory == nil || path[name] != nil || builtIn.contains(name)
    }

    private func visit(_ name: String, into order: inout [String]) {
        // modules.dep lists all that a module needs, directly or not, what is needed last first.
        for needed in (needs[name] ?? []).reversed() + [name] where path[needed] != nil && !order.contains(needed) {
            order.append(needed)
        }
    }

    /// The content of a module file, decompressed.
    package static func content(of file: String) throws(GuestError) -> [UInt8] {
        let tools = [".xz": "xz", ".zst": "zstd", ".gz": "gzip"]
        guard let tool = tools.first(where: { file.hasSuffix($0.key) })?.value else { return try HostFile.read(file) }
        guard let program = HostProgram.find(tool) else {
            throw .notInstalled(program: tool, packages: tool == "xz" ? "xz-utils" : tool)
        }
        let content = try HostProgram.output(of: [program, "-dc", file])
        guard !content.isEmpty else { throw .file(path: file, errno: .inputOutput) }
        return content
    }

    /// A module's name from its file: without directories and suffixes, and with underscores.
    static func name(_ file: Substring) -> String {
        let base = file.split(separator: "/").last ?? file
        let stem = base.range(ofModuleSuffix: ".ko").map { base[..<$0] } ?? base
        return String(stem.map { $0 == "-" ? "_" : $0 })
    }
}

extension Substring {
    fileprivate func range(ofModuleSuffix suffix: String) -> Index? {
        indices.first { self[$0...].hasPrefix(suffix) }
    }
}
