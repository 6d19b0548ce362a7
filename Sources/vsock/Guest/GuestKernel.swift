// SPDX-License-Identifier: Apache-2.0
// Finds the kernel that a guest boots: User Mode Linux, or an image for QEMU by version or by path.
// The release of an image comes from its own header (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header",
// field kernel_version), so that its modules are found whatever the file is called.

import VsockSystem

/// A Linux kernel on this machine and the modules that belong to it.
package struct GuestKernel: Equatable, Sendable {
    /// What runs the kernel.
    package enum Monitor: Equatable, Sendable {
        /// The kernel is itself an ordinary process of the host.
        case userModeLinux
        /// The kernel runs in a virtual machine.
        case qemu
    }

    /// What runs it.
    package let monitor: Monitor
    /// The kernel's file.
    package let image: String
    /// The kernel's release, as `uname -r` prints it in the guest.
    package let release: String
    /// Where its modules are; nil for a kernel without any.
    package let modulesDirectory: String?

    /// Finds a kernel by what the user calls it.
    ///
    /// - Parameter name: `uml`, `qemu` (the newest kernel in /boot, cloud kernels first), the beginning of a release such as
    ///   `6.12`, or the path of an image.
    package static func find(_ name: String) throws(GuestError) -> GuestKernel {
        if name.contains("/") { return try at(HostFile.absolute(name)) }
        if name == "uml" {
            guard let image = HostProgram.find("linux.uml") else {
                throw .notInstalled(program: "User Mode Linux", packages: "user-mode-linux")
            }
            return try at(image)
        }
        let images = ((try? FileSystem.names(in: "/boot")) ?? []).filter { $0.hasPrefix("vmlinuz-") }
        guard let best = newest(images, matching: name == "qemu" ? nil : name) else {
            throw .kernelNotFound(name: name, remedy: remedy(name))
        }
        return try at("/boot/" + best)
    }

    /// The best of these file names: cloud kernels before others, then the highest version.
    static func newest(_ names: [String], matching prefix: String?) -> String? {
        names.filter { matches($0.dropFirst("vmlinuz-".count), prefix: prefix) }
            .max { (isCloud($0) ? 1 : 0, version($0)) < (isCloud($1) ? 1 : 0, version($1)) }
    }

    private static func isCloud(_ name: String) -> Bool {
        name.contains("cloud") || name.contains("kvm") || name.contains("virtual")
    }

    private static func matches(_ release: Substring, prefix: String?) -> Bool {
        guard let prefix else { return true }
        guard release.hasPrefix(prefix) else { return false }
        guard let next = release.dropFirst(prefix.count).first, let last = prefix.last else { return true }
        // "6.1" is not the beginning of "6.12".
        return !(last.isNumber && next.isNumber)
    }

    /// The numbers in a name, in order: compares releases the way people read them.
    static func version(_ name: String) -> VersionNumbers {
        VersionNumbers(name.split { !$0.isASCII || !$0.isNumber }.map { Int($0) ?? 0 })
    }

    private static func at(_ path: String) throws(GuestError) -> GuestKernel {
        let head = try HostFile.read(path, limit: 0x8000)
        if head.starts(with: [0x7F, 0x45, 0x4C, 0x46]) {
            guard let release = try userModeLinuxRelease(path) else { throw .notAKernel(path: path) }
            return GuestKernel(
                monitor: .userModeLinux, image: path, release: release,
                modulesDirectory: directory(["/usr/lib/uml/modules/", "/lib/modules/"], release))
        }
        guard let release = imageRelease(head) ?? nameRelease(path) else { throw .notAKernel(path: path) }
        return GuestKernel(
            monitor: .qemu, image: path, release: release,
            modulesDirectory: directory(["/lib/modules/", "/usr/lib/modules/"], release))
    }

    /// The release in an x86 boot header: "HdrS" at 0x202, at 0x20E where the text is, less 0x200.
    static func imageRelease(_ head: [UInt8]) -> String? {
        guard head.count > 0x210, head[0x202..<0x206].elementsEqual("HdrS".utf8) else { return nil }
        let start = Int(head[0x20E]) + Int(head[0x20F]) << 8 + 0x200
        guard start > 0x210, start < head.count else { return nil }
        let text = head[start...].prefix(256).prefix { $0 > 0x20 && $0 < 0x7F }
        return text.isEmpty ? nil : String(decoding: text, as: UTF8.self)
    }

    private static func nameRelease(_ path: String) -> String? {
        guard let name = path.split(separator: "/").last, name.hasPrefix("vmlinuz-") else { return nil }
        return String(name.dropFirst("vmlinuz-".count))
    }

    private static func userModeLinuxRelease(_ path: String) throws(GuestError) -> String? {
        let answer = try HostProgram.output(of: [path, "--version"])
        let line = String(decoding: answer, as: UTF8.self).split(separator: "\n").first.map(String.init)
        return line.flatMap { $0.first?.isNumber == true ? $0 : nil }
    }

    private static func directory(_ parents: [String], _ release: String) -> String? {
        parents.map { $0 + release }.first { FileSystem.kind(of: $0) == .directory }
    }

    private static func remedy(_ name: String) -> String {
        guard name == "qemu" || name.first?.isNumber == true else {
            return "give 'uml', 'qemu', a version such as 6.12, or the path of an image"
        }
        let package = name.hasPrefix("6.12") ? "linux-image-6.12-cloud-amd64" : "linux-image-cloud-amd64"
        return "/boot has no such image: apt-get install \(package) (Ubuntu: linux-image-virtual)"
    }
}

/// Numbers that compare from the first to the last.
struct VersionNumbers: Comparable {
    private let numbers: [Int]

    init(_ numbers: [Int]) { self.numbers = numbers }

    static func < (left: VersionNumbers, right: VersionNumbers) -> Bool {
        left.numbers.lexicographicallyPrecedes(right.numbers)
    }
}
