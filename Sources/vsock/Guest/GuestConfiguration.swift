// SPDX-License-Identifier: Apache-2.0
// What the user wants of a guest.

import VsockSystem

/// A guest to boot and the command to run in it.
package struct GuestConfiguration {
    /// The kernel.
    package var kernel: GuestKernel
    /// The guest's memory in MiB.
    package var memoryMiB: Int
    /// The vhost-user socket of its vsock device; nil for a guest without one.
    package var deviceSocket: String?
    /// The program and its arguments; it runs as root.
    package var command: [String]
    /// Where it runs.
    package var workingDirectory: String
    /// Its environment, as NAME=value.
    package var environment: [String]
    /// Modules to insert besides those of the vsock device, such as `vsock_loopback`.
    package var extraModules: [String] = []
    /// More arguments for the kernel process (User Mode Linux) or for QEMU.
    package var extraArguments: [String] = []
    /// How long booting may take, in seconds.
    package var bootSecondsMax = 60
    /// How long all of it may take, from the start of the boot, in seconds; nil for any time.
    package var secondsMax: Int?

    /// A guest that runs `command` here, with this process's environment.
    package init(kernel: GuestKernel, deviceSocket: String?, command: [String], memoryMiB: Int? = nil) {
        self.kernel = kernel
        self.memoryMiB = memoryMiB ?? (kernel.monitor == .userModeLinux ? 256 : 512)
        self.deviceSocket = deviceSocket
        self.command = command
        self.workingDirectory = CurrentProcess.currentDirectory
        self.environment = CurrentProcess.environment
    }

    /// The modules to insert, in order of need.
    var modules: [String] {
        (deviceSocket == nil ? [] : ["vmw_vsock_virtio_transport"]) + extraModules
    }
}
