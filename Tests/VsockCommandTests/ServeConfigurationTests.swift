// SPDX-License-Identifier: Apache-2.0
//
// How `vsock serve` is told of its VMs: `--vm`, `--config`, and what it says of wrong ones.

import Testing
import VsockSystem
import VsockTestSupport
import VsockTransport

@testable import vsock

@Suite struct ServeConfigurationTests {
    @Test("a file has the keys of --vm, with - or _, and their defaults")
    func file() throws {
        let vms = try ConfigurationFile.parse(
            """
            vms:
              - guest_cid: 5
                socket: /s5
                uds_path: /v5
                tx_buffer_size: 65536
                queue_size: 256
                groups: a+b
              - guest-cid: 6
                socket: /s6
                uds-path: /v6
                groups: [c, d]
                seqpacket: off
              - {socket: /s3, uds_path: /v3}
            """)
        #expect(vms.map(\.guestCID) == [5, 6, 3])
        #expect(vms.map(\.socketPath) == ["/s5", "/s6", "/s3"])
        #expect(vms.map(\.hybridPath) == ["/v5", "/v6", "/v3"])
        #expect(vms.map(\.groups) == [["a", "b"], ["c", "d"], ["default"]])
        #expect(vms.map(\.bufferByteCount) == [65536, 262_144, 262_144])
        #expect(vms.map(\.queueSize) == [256, 1024, 1024])
        #expect(vms.map(\.seqpacket) == [.auto, .off, .auto])
    }

    @Test("what is given for all VMs holds for those that do not say otherwise")
    func defaults() throws {
        var defaults = VirtualMachineOption.noDefaults
        defaults.bufferByteCount = 4096
        defaults.queueSize = 128
        defaults.seqpacket = .off
        defaults.groups = ["g"]
        defaults.limits = try VirtualMachineOption.limits("max_connections=7,max-lingering=8", on: DeviceLimits())
        for vm in [
            try VirtualMachineOption.parse("socket=/s,uds-path=/v,max-lingering=9", defaults: defaults),
            try #require(
                try ConfigurationFile.parse(
                    "vms:\n  - {socket: /s, uds_path: /v, max_lingering: 9}\n", defaults: defaults
                ).first),
        ] {
            #expect(vm.socketPath == "/s" && vm.hybridPath == "/v" && vm.guestCID == 3)
            #expect(vm.bufferByteCount == 4096 && vm.queueSize == 128 && vm.seqpacket == .off && vm.groups == ["g"])
            #expect(vm.limits[.connections] == 7 && vm.limits[.lingering] == 9)
            #expect(vm.limits[.silentClients] == DeviceLimits.Name.silentClients.defaultValue)
        }
        for text in [
            "socket=/s", "max-connections", "max-connections=0", "max-connections=x", "max-connections=1000001",
        ] {
            #expect(throws: VirtualMachineError.self) { try VirtualMachineOption.limits(text, on: DeviceLimits()) }
        }
    }

    @Test(
        "a bad file is named with the line and the key",
        arguments: [
            ("vms:\n  - socket: /s\n    uds_path: /v\n    guest_cid: x\n", 4, "guest-cid=x"),
            ("vms:\n  - socket: /s\n    uds_path: /v\n    guest_cid: 4294967296\n", 4, "guest-cid"),
            ("vms:\n  - socket: /s\n    uds_path: /v\n    colour: red\n", 4, "unknown key \"colour\""),
            ("vms:\n  - socket: /s\n\n    groups: a+\n    uds_path: /v\n", 4, "groups"),
            ("vms:\n  - socket: /s\n    uds_path: [a, {b: c}]\n", 3, "uds_path"),
            ("vms:\n  - socket: /s\n    uds_path:\n", 3, "uds_path"),
            ("vms:\n  - socket: /s\n    uds_path: /v\n    uds-path: /w\n", 4, "given twice"),
            ("vms:\n  - socket: /s\n    uds_path: /v\n    uds_path: /w\n", 3, "uds_path"),
            ("vms:\n  - socket: /a\n    uds_path: /b\n  - socket: /c\n", 4, "uds-path is missing"),
            ("vms:\n  - uds_path: /b\n", 2, "socket is missing"),
            ("vms:\n  - 3\n", 2, "a VM is"), ("vms: 3\n", 1, "vms is a list"), ("vms: []\n", 1, "vms is a list"),
            ("vm: []\n", 1, "unknown key \"vm\""), ("- a\n", 1, "vms"), ("", 1, "vms"), ("3", 1, "vms"),
            ("vms:\n  - socket: \"/s\n", 3, ""), ("vms:\n\t- x\n", 2, ""), ("a: &x [*x]\n", 1, ""),
        ] as [(String, Int, String)])
    func badFile(text: String, line: Int, part: String) {
        do throws(ConfigurationFileError) {
            _ = try ConfigurationFile.parse(text)
            Issue.record("it was taken: \(text)")
        } catch {
            #expect(error.line == line, "\(error)")
            #expect(error.description.contains(part) && !error.description.contains("\n"), "\(error)")
        }
    }

    @Test("any bytes are a file or an error, never an end of the process", arguments: 0..<200)
    func garbage(seed: Int) {
        var random = PRNG(seed: UInt64(seed))
        let alphabet = Array("vms: -\n\t socket[]{}&*#'\"|>?%@!,0/\u{0}\u{FFFD}")
        let text = String((0..<random.below(200)).map { _ in random.pick(alphabet) })
        _ = try? ConfigurationFile.parse("vms:\n  - socket: " + text)
        _ = try? ConfigurationFile.parse(text)
    }

    @Test("wrong usage of serve is one line and status 64")
    func usage() throws {
        for arguments in [
            ["--vm", "socket=/s"], ["--vm", "socket=/s,uds-path=/v,groups=a++b"], ["--vm", "socket=/s,colour=red"],
            ["--vm", "socket=/s,uds-path=/v", "--config", "/x"], ["--config", "/x", "--socket", "/s"],
            ["--socket", "/s", "--uds-path", "/v", "--groups", "+"],
            ["--socket", "/s", "--uds-path", "/v", "--limit", "max-colours=3"],
            ["--socket", "/s", "--uds-path", "/v", "--threads", "0"],
        ] {
            let result = try RunningCommand(["serve"] + arguments, inputPath: "/dev/null").finish()
            #expect(result.status == 64 && result.errorLine != nil, "\(arguments): \(result.error)")
        }
    }

    @Test("a file that cannot be used ends serve with one line and status 1")
    func unusable() throws {
        let directory = try TemporaryDirectory()
        let twice = "vms:\n  - {socket: \(directory.path)/a, uds_path: \(directory.path)/b}\n"
        let bad = try directory.write(Array("vms:\n  - guest_cid: x\n".utf8), to: "bad.yaml")
        let duplicate = try directory.write(
            Array((twice + "  - {socket: \(directory.path)/c, uds_path: \(directory.path)/d}\n").utf8), to: "two.yaml")
        for (path, part) in [
            (bad, "bad.yaml:2: "), (duplicate, "guest-cid 3 is given to two VMs"),
            (directory.file("none.yaml"), "No such file"),
        ] {
            let result = try RunningCommand(["serve", "--config", path], inputPath: "/dev/null").finish()
            #expect(result.status == 1 && result.errorLine?.contains(part) == true, "\(result.error)")
        }
    }
}
