// SPDX-License-Identifier: Apache-2.0

import Testing

@Suite struct UsageTests {
    @Test(
        "wrong usage is one line and status 64",
        arguments: [
            "connect", "connect 3", "connect x 1234", "connect 3 x", "connect 3 -5", "connect 3 4294967295",
            "connect 3 4294967296", "connect 4294967295 1", "connect 3 4 5", "connect --bogus 3 4", "connect -w 0 3 4",
            "connect --transport uds:/tmp/x", "connect --transport uds:/tmp/x 1 2 3", "connect --null 3 4",
            "connect --record-size 5 3 4", "connect --seqpacket --record-size 0 3 4",
            "connect --seqpacket --record-size 16777217 3 4", "connect --seqpacket --null --record-size 5 3 4",
            "connect --buffer-size 0 3 4", "listen", "listen x", "listen 4294967295", "listen 1 2", "listen --bogus 1",
            "connect --capture /f 2 5",
            "listen --capture /f --transport uds:/s 5",
            "test", "test --transport loopback --mode client", "test --transport driver:/s --mode server",
            "test --mode client --peer-cid 3 --control-port 5", "test --mode both --peer-cid 3 --control-port 5",
            "test --mode server --control-port 5", "test --mode server --control-port 65536 --peer-cid 3",
            "test --peer-cid 3", "test --transport loopback --pick 26", "test --transport loopback --skip -1",
            "test --transport loopback --suite rfc-v5 --pick 8", "test --suite linux-5.4 --list",
            "test --transport loopback --peer-port 4294967295", "nonsense",
        ])
    func wrong(line: String) throws {
        try check(line.split(separator: " ").map(String.init))
    }

    @Test(
        "every transport that is not one is refused",
        arguments: [
            "", "x", "kernel:", "kernel:x", "kernel,seqpacket=off", "loopback:1", "loopback,guest-cid=3", "uds", "uds:",
            "driver", "driver:", "driver:/s,guest-cid=3", "device", "device:", "device:,guest-cid=3", "device:/s,",
            "device:/s,guest-cid", "device:/s,guest-cid=", "device:/s,guest-cid=2", "device:/s,guest-cid=4294967295",
            "device:/s,guest-cid=3,guest_cid=4", "device:/s,seqpacket=maybe", "device:/s,seqpacket=off,seqpacket=off",
            "device:/s,x=1", "KERNEL", "\u{1F600}", ":::", ",", "=",
        ])
    func wrongTransport(text: String) throws {
        for command in [["connect", "3", "4"], ["listen", "4"]] {
            try check(command + ["--transport", text])
        }
    }

    @Test("help is no error", arguments: ["connect", "listen", "test"])
    func help(command: String) throws {
        let running = try RunningCommand([command, "--help"], inputPath: "/dev/null")
        #expect(try readAllText(running.output).contains("USAGE: vsock \(command) [options]"))
        let result = try running.finish()
        #expect(result.status == 0)
        #expect(result.error == "")
    }

    @discardableResult
    private func check(_ arguments: [String]) throws -> String {
        let running = try RunningCommand(arguments, inputPath: "/dev/null")
        #expect(try readAllText(running.output) == "")
        let result = try running.finish()
        #expect(result.status == 64, "\(result.error)")
        #expect(result.errorLine?.hasPrefix("vsock: ") == true, "\(result.error)")
        return result.error
    }
}
