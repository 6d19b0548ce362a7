// SPDX-License-Identifier: Apache-2.0
// Real guests, one test for each kernel of this machine: what the command sees, what it gives back, and that nothing stays.

import Testing
import VsockSystem

@testable import vsock

@Suite("Real guests", .serialized)
struct GuestBootTests {
    @Test("the command's output, errors and status come back apart, and stdout is clean", arguments: GuestRun.kernels)
    func outputAndStatus(kernel: String) async {
        let script = "echo out; echo err >&2; id -u; pwd; [ -t 1 ] || echo no terminal; exit 7"
        let result = await GuestRun.run(kernel, ["sh", "-c", script]) { $0.workingDirectory = "/usr" }
        #expect(result.error == nil)
        #expect(result.status == 7)
        #expect(result.output == "out\n0\n/usr\nno terminal\n")
        #expect(result.errors == "err\n")
    }

    @Test(
        "the host's files are there and cannot be changed; /tmp shows them and can be written to",
        arguments: GuestRun.kernels)
    func files(kernel: String) async throws {
        let path = "/tmp/vsock-guest-test-\(CurrentProcess.identifier)"
        try HostFile.write(Array("seen".utf8), to: path)
        defer { FileSystem.removeTree(path) }
        let script = """
            cat \(path); echo
            (: > /etc/vsock-guest-test) 2>/dev/null || echo refused
            echo changed > \(path); cat \(path)
            """
        let result = await GuestRun.run(kernel, ["sh", "-c", script])
        #expect(result.output == "seen\nrefused\nchanged\n", "\(result)")
        #expect(try HostFile.read(path) == Array("seen".utf8))
        #expect(!FileSystem.exists("/etc/vsock-guest-test"))
    }

    @Test("standard input arrives unchanged, whatever its bytes, and ends", arguments: GuestRun.kernels)
    func input(kernel: String) async {
        let seed: UInt64 = 11
        var generator = SeededGenerator(seed: seed)
        let content = (0..<300_000).map { _ in UInt8.random(in: 0...255, using: &generator) }
        let result = await GuestRun.run(kernel, ["od", "-An", "-v", "-tx1", "-w1000"], input: content)
        let received = result.output.split { $0.isWhitespace }.compactMap { UInt8($0, radix: 16) }
        #expect(received == content, "seed \(seed), \(received.count) bytes")
        #expect(result.status == 0)
    }

    @Test("a command that a signal ends, or that is not there, has the shell's status", arguments: GuestRun.kernels)
    func unusualEnds(kernel: String) async {
        #expect(await GuestRun.run(kernel, ["sh", "-c", "kill -9 $$"]).status == 128 + 9)
        #expect(await GuestRun.run(kernel, ["no-such-command"]).status == 127)
    }

    @Test("what the command leaves running ends with it", arguments: GuestRun.kernels)
    func leftovers(kernel: String) async {
        let result = await GuestRun.run(kernel, ["sh", "-c", "sleep 1000 & echo done"])
        #expect(result.status == 0)
        #expect(result.output == "done\n")
        #expect(result.milliseconds < 60_000)
    }

    @Test("a cancelled guest ends at once and leaves nothing behind", arguments: GuestRun.kernels)
    func cancel(kernel: String) async {
        let result = await GuestRun.run(kernel, ["sleep", "1000"], cancelAfterReady: true)
        #expect(result.status == Guest.cancelledStatus)
        #expect(result.milliseconds < 60_000)
    }

    @Test("a guest that takes longer than it may is ended", arguments: GuestRun.kernels)
    func timeout(kernel: String) async {
        let result = await GuestRun.run(kernel, ["sleep", "1000"]) { $0.secondsMax = 8 }
        #expect(result.status == Guest.timedOutStatus || result.error?.description.contains("not ready") == true)
        #expect(result.milliseconds < 120_000)
    }

    @Test("several guests run at once", .enabled(if: GuestRun.kernels.contains("uml")))
    func several() async {
        await withTaskGroup(of: GuestResult.self) { group in
            for number in 0..<4 {
                group.addTask { await GuestRun.run("uml", ["echo", "\(number)"]) }
            }
            var outputs: Set<String> = []
            for await result in group { outputs.insert(result.output) }
            #expect(outputs == ["0\n", "1\n", "2\n", "3\n"])
        }
    }

    @Test(
        "a guest that cannot boot says why, with the end of its console", .enabled(if: GuestRun.kernels.contains("uml"))
    )
    func bootFailure() async {
        let panic = await GuestRun.run("uml", ["true"]) { $0.extraArguments = ["rootflags=/no/such/root"] }
        guard case .bootFailed(_, let console) = panic.error else {
            Issue.record("no boot failure: \(panic)")
            return
        }
        #expect(console.contains("panic"))
        #expect(panic.milliseconds < 30_000)
        let late = await GuestRun.run("uml", ["true"]) { $0.bootSecondsMax = 0 }
        #expect(late.error?.description == "the guest did not run the command: it was not ready after 0 s")
    }

    @Test(
        "the guest's crash is noticed, whatever its helpers hold open", .enabled(if: GuestRun.kernels.contains("uml")))
    func crash() async {
        let result = await GuestRun.run("uml", ["sh", "-c", "echo c > /proc/sysrq-trigger; sleep 1000"])
        #expect(result.error?.description == "the guest did not run the command: it ended before the command did")
        #expect(result.milliseconds < 30_000)
    }

    @Test("a device that is not there and a directory that the guest does not see are refused in one line")
    func refusals() async {
        guard let kernel = GuestRun.kernels.first else { return }
        let socket = "/nowhere/vsock.sock"
        let noDevice = await GuestRun.run(kernel, ["true"]) { $0.deviceSocket = socket }
        #expect(noDevice.error == .noDevice(socket: socket))
        let noDirectory = await GuestRun.run(kernel, ["true"]) { $0.workingDirectory = "/no/such/directory" }
        #expect(noDirectory.error?.description.contains("working directory") == true)
    }

    @Test("the guest's own vsock works over loopback", arguments: GuestRun.kernels)
    func loopback(kernel: String) async {
        let program = """
            import socket
            with socket.socket(socket.AF_VSOCK, socket.SOCK_SEQPACKET) as a:
                a.bind((1, 5)); a.listen()
                with socket.socket(socket.AF_VSOCK, socket.SOCK_SEQPACKET) as b:
                    b.connect((1, 5)); c, _ = a.accept(); b.send(b"one"); b.send(b"two")
                    print(c.recv(100).decode(), c.recv(100).decode())
            """
        guard let python = HostProgram.find("python3") else { return }
        let result = await GuestRun.run(kernel, [python, "-c", program]) { $0.extraModules = ["vsock_loopback"] }
        #expect(result.output == "one two\n", "\(result)")
    }
}
