// SPDX-License-Identifier: Apache-2.0
// The parts of booting a guest that need no guest: kernel images, module lists, archives, scripts, terminal input.

import Testing
import VsockSystem

@testable import vsock

@Suite("Guest kernels")
struct GuestKernelTests {
    @Test("the release comes from the image's boot header")
    func release() {
        var image = [UInt8](repeating: 0, count: 0x8000)
        image.replaceSubrange(0x202..<0x206, with: "HdrS".utf8)
        (image[0x20E], image[0x20F]) = (0x00, 0x30)
        image.replaceSubrange(0x3200..<0x3206, with: "6.12.7".utf8)
        #expect(GuestKernel.imageRelease(image) == "6.12.7")
    }

    @Test("an image that is cut short or points outside itself has no release")
    func garbage() {
        var image = [UInt8](repeating: 0xFF, count: 0x400)
        #expect(GuestKernel.imageRelease([]) == nil)
        #expect(GuestKernel.imageRelease(image) == nil)
        image.replaceSubrange(0x202..<0x206, with: "HdrS".utf8)
        #expect(GuestKernel.imageRelease(image) == nil)
        (image[0x20E], image[0x20F]) = (0x80, 0x01)
        #expect(GuestKernel.imageRelease(image) == nil)
        var generator = SeededGenerator(seed: 7)
        for length in 0..<0x260 {
            _ = GuestKernel.imageRelease((0..<length).map { _ in UInt8.random(in: 0...255, using: &generator) })
        }
    }

    @Test("a version names the newest kernel that begins with it, and cloud kernels come first")
    func choice() {
        let names = [
            "vmlinuz-6.1.0-9-cloud-amd64", "vmlinuz-6.1.0-56-cloud-amd64", "vmlinuz-6.12.117+deb12-cloud-amd64",
            "vmlinuz-6.99.0-amd64",
        ]
        #expect(GuestKernel.newest(names, matching: "6.1") == "vmlinuz-6.1.0-56-cloud-amd64")
        #expect(GuestKernel.newest(names, matching: "6.12") == "vmlinuz-6.12.117+deb12-cloud-amd64")
        #expect(GuestKernel.newest(names, matching: nil) == "vmlinuz-6.12.117+deb12-cloud-amd64")
        #expect(GuestKernel.newest(names, matching: "6.99") == "vmlinuz-6.99.0-amd64")
        #expect(GuestKernel.newest(names, matching: "5") == nil)
    }

    @Test("a kernel that is not there is refused with what to install")
    func missing() {
        let error = #expect(throws: GuestError.self) { try GuestKernel.find("6.0") }
        #expect(error?.description.contains("apt-get install") == true)
        #expect(throws: GuestError.notAKernel(path: "/etc/passwd")) { try GuestKernel.find("/etc/passwd") }
        #expect(throws: GuestError.file(path: "/nowhere/at/all", errno: .noSuchFile)) {
            try GuestKernel.find("/nowhere/at/all")
        }
    }
}

@Suite("Guest modules")
struct GuestModulesTests {
    private let modules = GuestModules(
        directory: "/m",
        dependencies: [
            "kernel/net/vmw_vsock_virtio_transport.ko.xz: kernel/net/common.ko.xz kernel/net/vsock.ko.xz",
            "kernel/net/common.ko.xz: kernel/net/vsock.ko.xz", "kernel/net/vsock.ko.xz:", "kernel/x/virtio-rng.ko:", "",
            ":", "no colon at all",
        ],
        builtIn: ["kernel/drivers/virtio/virtio_pci.ko", ""])

    @Test("what a module needs is inserted before it, once, and what is built in not at all")
    func order() throws {
        let files = try modules.files(for: ["virtio_pci", "vmw_vsock_virtio_transport", "vsock", "virtio-rng"])
        #expect(
            files == [
                "/m/kernel/net/vsock.ko.xz", "/m/kernel/net/common.ko.xz",
                "/m/kernel/net/vmw_vsock_virtio_transport.ko.xz", "/m/kernel/x/virtio-rng.ko",
            ])
    }

    @Test("a module that the kernel does not have is an error; a kernel without modules has everything built in")
    func missing() throws {
        #expect(throws: GuestError.moduleNotFound(name: "nothing", directory: "/m")) {
            try modules.files(for: ["nothing"])
        }
        #expect(try GuestModules(directory: nil).files(for: ["nothing"]).isEmpty)
    }
}

@Suite("Guest files")
struct GuestFilesTests {
    @Test("the archive is what cpio understands")
    func archive() throws {
        guard let cpio = HostProgram.find("cpio") else { return }
        let directory = try TemporaryDirectory()
        var archive = InitramfsArchive()
        archive.addDirectory("modules")
        archive.addFile("modules/a.ko", [1, 2, 3])
        archive.addFile("init", Array("#!/busybox sh\n".utf8), isExecutable: true)
        let path = directory.path + "/archive"
        try HostFile.write(archive.finished(), to: path)
        let listing = try HostProgram.output(of: [cpio, "-itv", "--quiet", "-F", path])
        let lines = String(decoding: listing, as: UTF8.self).split(separator: "\n").map { $0.split(separator: " ") }
        #expect(lines.map { $0.last } == ["modules", "modules/a.ko", "init"])
        #expect(lines.map { $0.first } == ["drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x"])
        #expect(lines.map { $0[4] } == ["0", "3", "14"])
    }

    @Test(
        "a quoted word stands for itself in the shell",
        arguments: ["", "a b", "it's", "$HOME `id` \"\\", "''", "é\n\t*"])
    func quoting(word: String) throws {
        let output = try HostProgram.output(of: ["/bin/sh", "-c", "printf %s " + GuestInit.quoted(word)])
        #expect(String(decoding: output, as: UTF8.self) == word)
    }
}

@Suite("Terminal input")
struct TerminalInputTests {
    @Test("any bytes come out of a terminal line as they went in, with the end of file where it belongs")
    func throughATerminal() throws {
        let seed: UInt64 = 2026
        var generator = SeededGenerator(seed: seed)
        let special: [UInt8] = [0, 3, 4, 10, 13, 17, 19, 22, 26, 28, 127, 255]
        var content: [UInt8] = []
        for _ in 0..<20_000 {
            content.append(
                Bool.random(using: &generator)
                    ? special.randomElement(using: &generator) ?? 0 : .random(in: 0...255, using: &generator))
        }
        var line = ModelLine()
        var rest = content[...]
        while !rest.isEmpty {
            let chunk = rest.prefix(Int.random(in: 1...TerminalInputEncoder.chunkSizeMax, using: &generator))
            rest = rest.dropFirst(chunk.count)
            let count = line.lineCount
            line.type(TerminalInputEncoder.encode(chunk))
            #expect(line.lineCount == count + 1, "seed \(seed)")
        }
        #expect(line.received == content, "seed \(seed)")
        #expect(!line.isEnded && line.longest < 4096 - 128, "seed \(seed)")
        line.type(TerminalInputEncoder.endOfFile)
        #expect(line.isEnded)
    }

    /// A terminal line in canonical mode with EOF and LNEXT as its only special characters.
    private struct ModelLine {
        var received: [UInt8] = []
        var isEnded = false
        var longest = 0
        var lineCount = 0
        private var pending: [UInt8] = []
        private var isLiteral = false

        mutating func type(_ bytes: [UInt8]) {
            for byte in bytes {
                if isLiteral || (byte != 0x04 && byte != 0x16) {
                    pending.append(byte)
                    longest = max(longest, pending.count)
                    if !isLiteral, byte == 0x0A { handOver() }
                    isLiteral = false
                } else if byte == 0x16 {
                    isLiteral = true
                } else {
                    isEnded = isEnded || pending.isEmpty
                    handOver()
                }
            }
        }

        private mutating func handOver() {
            received += pending
            pending = []
            lineCount += 1
        }
    }
}

/// SplitMix64, for tests that print their seed.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }
}
