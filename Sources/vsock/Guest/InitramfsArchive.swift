// SPDX-License-Identifier: Apache-2.0
// The initial RAM file system of a QEMU guest: a cpio archive in the "newc" form that the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst).

/// A cpio archive under construction.
package struct InitramfsArchive {
    private var bytes: [UInt8] = []
    private var inode = 0

    /// An empty archive.
    package init() {}

    /// Adds a directory; its parents must have been added before.
    package mutating func addDirectory(_ path: String) {
        add(path, mode: 0o040755, content: [])
    }

    /// Adds a file.
    package mutating func addFile(_ path: String, _ content: [UInt8], isExecutable: Bool = false) {
        add(path, mode: isExecutable ? 0o100755 : 0o100644, content: content)
    }

    /// The archive with its end mark.
    package consuming func finished() -> [UInt8] {
        add("TRAILER!!!", mode: 0, content: [])
        return bytes
    }

    private mutating func add(_ path: String, mode: Int, content: [UInt8]) {
        inode += 1
        let name = Array(path.utf8) + [0]
        // Inode, mode, owner, group, links, time, size, device, device of the node, name's size, checksum.
        let fields = [inode, mode, 0, 0, 1, 0, content.count, 0, 0, 0, 0, name.count, 0]
        bytes.append(contentsOf: "070701".utf8)
        for field in fields {
            let digits = String(UInt32(truncatingIfNeeded: field), radix: 16, uppercase: true)
            bytes.append(contentsOf: String(repeating: "0", count: 8 - digits.utf8.count).utf8)
            bytes.append(contentsOf: digits.utf8)
        }
        bytes.append(contentsOf: name)
        pad()
        bytes.append(contentsOf: content)
        pad()
    }

    private mutating func pad() {
        bytes.append(contentsOf: repeatElement(0, count: (4 - bytes.count % 4) % 4))
    }
}
