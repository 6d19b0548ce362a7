// SPDX-License-Identifier: Apache-2.0
//
// The package's files, found from where this file was compiled.

import Foundation

/// The files that the rules apply to.
enum SourceTree {
    /// The package's root.
    static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    /// A file by its path from the root.
    static func file(_ path: String) throws -> SourceText {
        SourceText(path: path, try String(contentsOf: root.appending(path: path), encoding: .utf8))
    }

    /// The files below a folder of the root that have one of the extensions, in order of their paths.
    static func files(below folder: String, _ extensions: Set<String>) throws -> [SourceText] {
        let top = root.appending(path: folder).resolvingSymlinksInPath()
        guard try top.resourceValues(forKeys: [.isDirectoryKey]).isDirectory == true else {
            throw CocoaError(.fileReadNoSuchFile)
        }
        return try FileManager.default.subpathsOfDirectory(atPath: top.path())
            .filter { extensions.contains(URL(filePath: $0).pathExtension) }
            .sorted()
            .map { path in
                let text = try String(contentsOf: top.appending(path: path), encoding: .utf8)
                return SourceText(path: "\(folder)/\(path)", text)
            }
    }

    /// The names of the folders in a folder of the root.
    static func folders(in folder: String) throws -> Set<String> {
        let top = root.appending(path: folder).resolvingSymlinksInPath()
        let names = try FileManager.default.contentsOfDirectory(atPath: top.path())
        return Set(
            names.filter { name in
                (try? top.appending(path: name).resourceValues(forKeys: [.isDirectoryKey]).isDirectory) == true
            })
    }
}
