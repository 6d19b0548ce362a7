// SPDX-License-Identifier: Apache-2.0
//
// The text of the hybrid protocol by itself; HybridProtocolTests says it over a socket.

import Testing
import VsockTestSupport

@testable import VsockTransport

@Suite("The CONNECT command")
struct ConnectCommandTests {
    @Test(
        "what clients of Firecracker, Cloud Hypervisor and vhost-device-vsock say is understood",
        arguments: [
            ("CONNECT 52", 52), ("connect 52", 52), ("CoNnEcT 52", 52), ("  CONNECT 52", 52), ("CONNECT   52", 52),
            ("CONNECT\t52", 52), ("CONNECT 52  ", 52), ("CONNECT 52\r", 52), ("CONNECT +52", 52),
            ("CONNECT 00000000000000000052", 52), ("CONNECT +0052", 52), ("CONNECT 0", 0),
            ("CONNECT 4294967294", 4_294_967_294),
        ] as [(String, UInt32)])
    func accepted(line: String, port: UInt32) throws {
        #expect(try ConnectCommand.parse(line.utf8) == port)
    }

    @Test(
        "anything else is refused for a reason",
        arguments: [
            ("", .notAConnect), ("   ", .notAConnect), ("52", .notAConnect), ("CONNEC 52", .notAConnect),
            ("CONNECTT 52", .notAConnect), ("CONNECT52", .notAConnect), ("OK 52", .notAConnect),
            ("\0CONNECT 52", .notAConnect), ("CONNECT", .badPort), ("CONNECT ", .badPort), ("CONNECT x", .badPort),
            ("CONNECT -1", .badPort), ("CONNECT +", .badPort), ("CONNECT ++1", .badPort), ("CONNECT 1.5", .badPort),
            ("CONNECT 0x34", .badPort), ("CONNECT 5 2", .trailingText), ("CONNECT 52 now", .trailingText),
            ("CONNECT 4294967295", .badPort), ("CONNECT 4294967296", .badPort),
            ("CONNECT 18446744073709551668", .badPort), ("CONNECT 52\0", .badPort), ("CONNECT ５２", .badPort),
        ] as [(String, ConnectCommand.Defect)])
    func refused(line: String, defect: ConnectCommand.Defect) {
        #expect(throws: defect) { try ConnectCommand.parse(line.utf8) }
    }

    @Test("the answer is OK and the host's port")
    func answer() {
        #expect(ConnectCommand.answer(hostPort: 1_073_741_824) == Array("OK 1073741824\n".utf8))
    }

    @Test("random bytes are never understood as a port that they do not name")
    func garbage() {
        let seed: UInt64 = 0x5eed_0001
        var random = PRNG(seed: seed)
        let alphabet = Array("CONNECTconnect 0123456789+-\t\r\0\u{7f}".utf8)
        for _ in 0..<20_000 {
            let line = (0..<random.below(30)).map { _ in random.pick(alphabet) }
            guard let port = try? ConnectCommand.parse(line) else { continue }
            // What was understood is what a stricter reader makes of it.
            let words = String(decoding: line, as: UTF8.self).uppercased()
                .split { $0 == " " || $0 == "\t" || $0 == "\r" }
            #expect(words.count == 2 && words[0] == "CONNECT" && UInt32(words[1]) == port, "seed \(seed): \(line)")
        }
    }
}
