// SPDX-License-Identifier: Apache-2.0
//
// Whole files and directories by path, for start-up and never for a path that packets take. Links are followed, except
// by what removes. Invariant: every descriptor opened here is closed here, or is owned by the caller.

import Glibc

/// Files and directories.
public enum FileSystem {
    /// What a path leads to.
    public enum Kind: Hashable, Sendable {
        case regularFile
        case directory
        case socket
        /// A device or a pipe.
        case other
    }

    /// What a process may do with a file, access(2).
    public struct Permissions: OptionSet, Sendable {
        /// R_OK, W_OK and X_OK bits.
        public var rawValue: Int32

        /// Wraps bits of access(2).
        public init(rawValue: Int32) {
            self.rawValue = rawValue
        }

        /// R_OK
        public static var read: Permissions { Permissions(rawValue: R_OK) }
        /// W_OK
        public static var write: Permissions { Permissions(rawValue: W_OK) }
        /// X_OK: run a file, or pass through a directory.
        public static var execute: Permissions { Permissions(rawValue: X_OK) }
    }

    // MARK: Questions

    /// What the path leads to, nil if to nothing that we can see.
    public static func kind(of path: String) -> Kind? {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        switch status.st_mode & S_IFMT {
        case S_IFREG: return .regularFile
        case S_IFDIR: return .directory
        case S_IFSOCK: return .socket
        default: return .other
        }
    }

    /// True if the path leads to something, whatever it is.
    public static func exists(_ path: String) -> Bool {
        kind(of: path) != nil
    }

    /// True if this process may do all of that with the file.
    public static func permits(_ permissions: Permissions, at path: String) -> Bool {
        access(path, permissions.rawValue) == 0
    }

    /// The names in a directory, sorted, without `.` and `..`. Throws ENOENT, ENOTDIR, EACCES.
    public static func names(in directory: String) throws(SystemCallError) -> [String] {
        guard let stream = opendir(directory) else {
            throw SystemCallError(call: "opendir", errno: Errno(rawValue: errno), path: directory)
        }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { tuple in
                tuple.withMemoryRebound(to: CChar.self, capacity: MemoryLayout.size(ofValue: tuple.pointee)) {
                    String(cString: $0)
                }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    // MARK: Content

    /// Opens a file or device that is there; it closes on exec. Throws ENOENT, EACCES, EMFILE.
    public static func open(_ path: String, forWriting: Bool = false) throws(SystemCallError) -> OwnedFileDescriptor {
        let flags = (forWriting ? O_RDWR : O_RDONLY) | O_CLOEXEC
        return OwnedFileDescriptor(owning: try checked("open", path: path) { Glibc.open(path, flags) })
    }

    /// Reads `limit` bytes at most, from `offset`. Throws ENOENT, EACCES, EISDIR.
    public static func read(
        _ path: String, offset: Int = 0, limit: Int = .max
    ) throws(SystemCallError) -> [UInt8] {
        let file = try open(path)
        let rawValue = file.rawValue
        var bytes: [UInt8] = []
        while bytes.count < limit {
            let size = min(1 << 20, limit - bytes.count)
            let position = off_t(offset + bytes.count)
            var result = 0
            let chunk = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
                result = systemCall { pread(rawValue, buffer.baseAddress, size, position) }
                count = max(0, result)
            }
            if result < 0 { throw SystemCallError(call: "read", errno: Errno(negated: result), path: path) }
            if result == 0 { break }
            bytes += chunk
        }
        return bytes
    }

    /// Creates or empties a regular file that no other writer of this kind has open, in this process or another, and
    /// opens it for writing; what else is there (a pipe, a device) is opened as it is, and does not block. `mode` is for
    /// a new file. Throws ENOENT, EACCES, EISDIR, EROFS; EWOULDBLOCK when there is another writer, ENXIO when nobody reads
    /// the pipe.
    public static func createForOneWriter(
        _ path: String, mode: UInt32 = 0o600
    ) throws(SystemCallError) -> OwnedFileDescriptor {
        let flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK
        let result = systemCall { Int(Glibc.open(path, flags, mode_t(mode))) }
        guard result >= 0 else {
            let detail = result == -Int(ENXIO) ? "nobody reads it: start its reader first" : nil
            throw SystemCallError(call: "open", errno: Errno(negated: result), path: path, detail: detail)
        }
        let file = OwnedFileDescriptor(owning: Int32(result))
        let rawValue = file.rawValue
        var status = stat()
        try checked("fstat", path: path) { fstat(rawValue, &status) }
        guard status.st_mode & S_IFMT == S_IFREG else { return file }
        // Emptied only now: the other writer's file must stay as it is. File systems without locks are taken as they are.
        if systemCall({ Int(flock(rawValue, LOCK_EX | LOCK_NB)) }) == -Int(EWOULDBLOCK) {
            throw SystemCallError(call: "open", errno: .wouldBlock, path: path, detail: "it is being written already")
        }
        try checked("ftruncate", path: path) { ftruncate(rawValue, 0) }
        return file
    }

    /// Creates or replaces a file. `mode` is for a new one. Throws ENOENT, EACCES, ENOSPC, EROFS.
    public static func write(_ bytes: [UInt8], to path: String, mode: UInt32 = 0o600) throws(SystemCallError) {
        let flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC
        let file = OwnedFileDescriptor(
            owning: try checked("open", path: path) { Glibc.open(path, flags, mode_t(mode)) })
        var rest = bytes[...]
        while !rest.isEmpty {
            switch rest.withUnsafeBytes({ DescriptorIO.write(file.rawValue, from: $0) }) {
            case .count(let count): rest = rest.dropFirst(count)
            case .wouldBlock: throw SystemCallError(call: "write", errno: .wouldBlock, path: path)
            case .failed(let errno): throw SystemCallError(call: "write", errno: errno, path: path)
            }
        }
    }

    // MARK: Names

    /// The directory part of a path: `.` for a path without one.
    public static func directory(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    /// Makes a symbolic link at `path`. Throws EEXIST, ENOENT, EACCES.
    public static func makeSymbolicLink(at path: String, to target: String) throws(SystemCallError) {
        try checked("symlink", path: path) { symlink(target, path) }
    }

    /// Removes a file, or a directory with all that is in it, as far as it may.
    public static func removeTree(_ path: String) {
        // A link is removed, never followed.
        if unlink(path) == 0 { return }
        for name in (try? names(in: path)) ?? [] { removeTree(path + "/" + name) }
        rmdir(path)
    }
}
