// SPDX-License-Identifier: Apache-2.0
// The virtual machine of a QEMU guest: shared memory, which every vhost-user device needs; the host's files; the four
// channels as ports of a virtio console (virtio 1.3 "Console Device"), numbered as `GuestBoot.Channel` but with
// control last; and the vsock device.

import VsockSystem

enum QemuMachine {
    #if arch(arm64)
    static let program = "qemu-system-aarch64"
    static let package = "qemu-system-arm"
    private static let type = "virt"
    private static let parameters = "console=ttyAMA0"
    #else
    static let program = "qemu-system-x86_64"
    static let package = "qemu-system-x86"
    private static let type = "q35"
    // On a busy machine an emulated timer may be late, and without the last word the kernel panics for want of it.
    private static let parameters = "console=ttyS0 no_timer_check"
    #endif

    static func arguments(
        program: String, configuration: GuestConfiguration, initramfs: String, files: String
    ) -> [String] {
        let memory = configuration.memoryMiB
        let accelerator = accelerator
        // Emulation executes `rep movsb` byte by byte, which kernel and C library prefer where the processor calls it
        // fast: without the flag a guest boots in half the time.
        let processor = accelerator == "tcg" && type == "q35" ? "max,-erms,-fsrm" : "max"
        var arguments = [
            program, "-M", "\(type),accel=\(accelerator),memory-backend=mem", "-cpu", processor, "-m", "\(memory)",
            "-object", "memory-backend-memfd,id=mem,size=\(memory)M,share=on",
            "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
            "-kernel", configuration.kernel.image, "-initrd", initramfs,
            "-append", "\(parameters) quiet panic=-1",
            "-chardev", "socket,id=files,path=\(files)", "-device", "vhost-user-fs-pci,chardev=files,tag=host",
            "-device", "virtio-serial-pci",
        ]
        let ports: [(GuestBoot.Channel, name: String)] = [
            (.input, "input"), (.output, "output"), (.errors, "errors"), (.control, "control"),
        ]
        for (number, port) in ports.enumerated() {
            arguments += [
                "-chardev", "socket,id=\(port.name),fd=\(port.0.rawValue)",
                "-device", "virtserialport,chardev=\(port.name),name=\(port.name),nr=\(number + 1)",
            ]
        }
        if let device = configuration.deviceSocket {
            arguments += [
                "-chardev", "socket,id=vsock,path=\(device)", "-device", "vhost-user-vsock-pci,chardev=vsock",
            ]
        }
        return arguments + configuration.extraArguments
    }

    /// Hardware virtualisation when this machine has it. A /dev/kvm alone proves nothing: in some virtual machines it is
    /// there, creates a VM, and then runs no kernel in it; those show no such flag in their processor.
    private static var accelerator: String {
        #if arch(x86_64)
        guard FileSystem.permits([.read, .write], at: "/dev/kvm"), let lines = try? HostFile.lines("/proc/cpuinfo"),
            let flags = lines.first(where: { $0.hasPrefix("flags") })?.split(separator: " "),
            flags.contains("vmx") || flags.contains("svm")
        else { return "tcg" }
        return "kvm:tcg"
        #else
        return FileSystem.permits([.read, .write], at: "/dev/kvm") ? "kvm:tcg" : "tcg"
        #endif
    }
}
