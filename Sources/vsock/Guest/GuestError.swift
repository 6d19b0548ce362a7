// SPDX-License-Identifier: Apache-2.0
// Why a guest could not be booted or could not run its command. Every case reads as one line that names the thing and
// the remedy; the tail of the guest's console is kept apart from it, for the caller to show.

import VsockSystem

/// A failure to boot a guest, or to run the command in it.
package enum GuestError: Error, Equatable, CustomStringConvertible {
    /// A program of the host is missing; `packages` are the Debian and Ubuntu packages that hold it.
    case notInstalled(program: String, packages: String)
    /// No kernel image answers to this name; `remedy` says how to get one.
    case kernelNotFound(name: String, remedy: String)
    /// The image is neither a User Mode Linux nor a kernel that QEMU can boot.
    case notAKernel(path: String)
    /// A file could not be read or written; `errno` says why.
    case file(path: String, errno: Errno)
    /// The kernel has no such module, neither built in nor loadable.
    case moduleNotFound(name: String, directory: String)
    /// The configuration cannot be carried out, with the reason.
    case invalid(String)
    /// A system call failed.
    case system(call: String, errno: Errno)
    /// Nothing listens on the device's socket.
    case noDevice(socket: String)
    /// The guest ended, or was given up, before it could run the command; `console` is the end of what it said.
    case bootFailed(reason: String, console: String)

    /// One line for standard error.
    package var description: String {
        switch self {
        case .notInstalled(let program, let packages):
            "\(program) is not installed: apt-get install \(packages)"
        case .kernelNotFound(let name, let remedy):
            "no kernel '\(name)': \(remedy)"
        case .notAKernel(let path):
            "\(path) is neither a User Mode Linux kernel nor a bootable kernel image"
        case .file(let path, .permissionDenied) where path.hasPrefix("/boot/"):
            "\(path): only root may read it: sudo chmod +r \(path)"
        case .file(let path, let code):
            "\(path): \(code)"
        case .moduleNotFound(let name, let directory):
            "the kernel has no module \(name) in \(directory): use a kernel with virtio-vsock"
        case .invalid(let reason):
            reason
        case .system(let call, let code):
            "\(call): \(code)"
        case .noDevice(let socket):
            "no vsock device at \(socket): start one with 'vsock serve --socket \(socket)'"
        case .bootFailed(let reason, _):
            "the guest did not run the command: \(reason)"
        }
    }

    /// The end of the guest's console, when there is one to show.
    package var console: String? {
        guard case .bootFailed(_, let console) = self, !console.isEmpty else { return nil }
        return console
    }

    /// Makes calls of the system layer; what fails is named by its path, or by the call if it has none.
    static func naming<Result: ~Copyable>(
        _ body: () throws(SystemCallError) -> Result
    ) throws(GuestError) -> Result {
        do {
            return try body()
        } catch {
            guard let path = error.path else { throw .system(call: "\(error.call)", errno: error.errno) }
            throw .file(path: path, errno: error.errno)
        }
    }
}
