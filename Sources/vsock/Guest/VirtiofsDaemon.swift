// SPDX-License-Identifier: Apache-2.0
// Shows the host's files to a QEMU guest through virtiofsd (virtio 1.3 "File System Device" over vhost-user), the one file
// system that both Debian 12 cloud kernels can mount live. Runs with the C daemon of QEMU 7.2 and with the Rust one.
//
// The guest mounts the files read-only, and so does the daemon where it may: in a mount namespace of its own, or in a user
// namespace when we are not root, which also gives the C daemon the root it asks for. It ends when QEMU closes its socket.

import VsockSystem

/// The daemon that serves the host's files.
package enum VirtiofsDaemon {
    private static let places = [
        "/usr/libexec", "/usr/lib/virtiofsd", "/usr/lib/qemu", "/usr/lib", "/usr/local/libexec",
    ]

    /// Starts it on a socket of the directory.
    ///
    /// - Parameter log: where it says what it does.
    package static func start(socket: String, log: Int32) throws(GuestError) -> ChildProcess {
        guard let program = HostProgram.find("virtiofsd", in: places) ?? HostProgram.find("virtiofsd") else {
            throw .notInstalled(program: "virtiofsd", packages: "qemu-system-common (or virtiofsd on newer systems)")
        }
        let listener = try GuestError.naming { () throws(SystemCallError) in
            try UnixSocket.listen(at: UnixAddress(socket), type: .stream, backlog: 1)
        }
        let arguments = ["/bin/sh", "-c", wrapper, "sh", program] + options(of: program)
        return try HostProgram.start(
            arguments, output: log, errors: log, furtherDescriptors: [listener.rawValue])
    }

    private static func options(of program: String) -> [String] {
        // The C daemon is the one that QEMU's own packages carry.
        guard program.hasPrefix("/usr/lib/qemu/") else {
            return ["--fd=3", "--shared-dir=/", "--sandbox=none", "--announce-submounts"]
        }
        return ["--fd=3", "-f", "-o", "source=/", "-o", "sandbox=chroot"]
    }

    private static let wrapper = """
        own=--mount
        [ "$(id -u)" = 0 ] || own="--map-root-user --mount"
        if unshare $own true 2>/dev/null; then
            exec unshare $own sh -c 'mount -o remount,bind,ro / 2>/dev/null; exec "$@"' sh "$@"
        fi
        exec "$@"
        """
}
