// SPDX-License-Identifier: Apache-2.0
// From a configuration to what boots it: the arguments of User Mode Linux or QEMU, and the files they start from.
//
// The process finds the guest's channels as descriptors 3 to 6 (`Channel`), stream sockets; its own standard output and
// standard error carry the console and are a log.

import VsockSystem

/// What boots a guest.
package struct GuestBoot {
    /// The guest's channels, each under its descriptor number in the process that runs the guest.
    package enum Channel: Int32, CaseIterable, Sendable {
        case control = 3
        case input, output, errors
    }

    /// The program and its arguments.
    package let arguments: [String]
    /// Variables to add to its environment, as NAME=value.
    package let environment: [String]
    /// Where the host's files are to be served by virtiofsd; nil when the guest needs no such server.
    package let virtiofsSocket: String?

    /// Works out the command and writes the files it needs.
    ///
    /// - Parameters:
    ///   - configuration: the guest.
    ///   - directory: where the files go; the guest needs them until it runs the command.
    package static func command(
        _ configuration: GuestConfiguration, directory: TemporaryDirectory
    ) throws(GuestError) -> GuestBoot {
        guard !configuration.command.isEmpty else { throw .invalid("there is no command to run in the guest") }
        guard (64...65536).contains(configuration.memoryMiB) else {
            throw .invalid("\(configuration.memoryMiB) MiB of memory: a guest takes 64 to 65536")
        }
        guard !(configuration.command + configuration.environment).contains(where: { $0.utf8.contains(0) }) else {
            throw .invalid("a word of the command or of its environment has a NUL byte")
        }
        var device: String?
        if let socket = configuration.deviceSocket {
            // A link gives the socket a short path without characters that options and command lines take apart.
            let link = directory.path + "/device"
            try GuestError.naming { () throws(SystemCallError) in
                try FileSystem.makeSymbolicLink(at: link, to: HostFile.absolute(socket))
            }
            device = link
        }
        switch configuration.kernel.monitor {
        case .userModeLinux: return try userModeLinux(configuration, device: device, directory: directory.path)
        case .qemu: return try qemu(configuration, device: device, directory: directory.path)
        }
    }

    private static func userModeLinux(
        _ configuration: GuestConfiguration, device: String?, directory: String
    ) throws(GuestError) -> GuestBoot {
        let kernel = configuration.kernel
        let modules = try GuestModules(directory: kernel.modulesDirectory)
        try writeSecondStage(
            configuration, modules: modules, files: modules.files(for: configuration.modules), directory: directory)
        var arguments = [
            kernel.image, "mem=\(configuration.memoryMiB)M", "rootfstype=hostfs", "rootflags=/", "ro",
            "init=\(directory)/init", "quiet", "panic=-1", "umid=guest", "uml_dir=\(directory)/uml/",
            "con=null", "con0=null,fd:1", "ssl=null", "ssl0=fd:3", "ssl1=fd:4,null", "ssl2=null,fd:5", "ssl3=null,fd:6",
        ]
        if let device { arguments.append("virtio_uml.device=\(device):19") }
        return GuestBoot(
            arguments: arguments + configuration.extraArguments, environment: try XstateLibrary.environment(),
            virtiofsSocket: nil)
    }

    private static func qemu(
        _ configuration: GuestConfiguration, device: String?, directory: String
    ) throws(GuestError) -> GuestBoot {
        guard let program = HostProgram.find(QemuMachine.program) else {
            throw .notInstalled(program: QemuMachine.program, packages: QemuMachine.package)
        }
        let modules = try GuestModules(directory: configuration.kernel.modulesDirectory)
        let wanted = ["virtio_pci", "virtio_console", "virtiofs"] + configuration.modules
        let overlay = modules.has("overlay") ? ["overlay"] : []
        let files = try modules.files(for: wanted + overlay)
        var configured = configuration
        configured.deviceSocket = device
        try writeSecondStage(configured, modules: nil, files: [], directory: directory)
        try writeInitramfs(files, directory: directory)
        let socket = directory + "/files"
        let arguments = QemuMachine.arguments(
            program: program, configuration: configured, initramfs: directory + "/initramfs", files: socket)
        return GuestBoot(arguments: arguments, environment: [], virtiofsSocket: socket)
    }

    private static func writeSecondStage(
        _ configuration: GuestConfiguration, modules: GuestModules?, files: [String], directory: String
    ) throws(GuestError) {
        let overlay = try modules.flatMap { (modules) throws(GuestError) in
            modules.has("overlay") ? try modules.files(for: ["overlay"]) : nil
        }
        guard let env = HostProgram.find("env") else { throw .notInstalled(program: "env", packages: "coreutils") }
        let script = GuestInit(
            configuration: configuration, busybox: try busybox(), env: env, moduleFiles: files + (overlay ?? []))
        try HostFile.write(Array(script.secondStage().utf8), to: directory + "/init", mode: 0o700)
    }

    private static func writeInitramfs(_ files: [String], directory: String) throws(GuestError) {
        var archive = InitramfsArchive()
        archive.addFile("busybox", try HostFile.read(busybox()), isExecutable: true)
        archive.addDirectory("modules")
        var names: [String] = []
        for file in files {
            let name = GuestModules.name(file[...]) + ".ko"
            archive.addFile("modules/" + name, try GuestModules.content(of: file))
            names.append(name)
        }
        let script = GuestInit.firstStage(modules: names, next: directory + "/init")
        archive.addFile("init", Array(script.utf8), isExecutable: true)
        try HostFile.write(archive.finished(), to: directory + "/initramfs")
    }

    private static func busybox() throws(GuestError) -> String {
        guard let program = HostProgram.find("busybox") else {
            throw .notInstalled(program: "busybox", packages: "busybox-static")
        }
        return program
    }
}
