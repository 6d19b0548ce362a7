// SPDX-License-Identifier: Apache-2.0
//
// The error queue of MSG_ZEROCOPY, as far as it shows without AF_VSOCK; with it, `vsock perf` is tested in guests.

import Testing
import VsockSystem
import VsockTestSupport

@Suite struct ZeroCopyTests {
    @Test func theErrorQueueIsEmptyUntilSomethingIsSentAndOtherFamiliesReportsAreNoCompletions() throws {
        let listener = try InternetSocket.listen(host: "127.0.0.1", port: 0)
        let port = try InternetSocket.localPort(listener.rawValue)
        let socket = try InternetSocket.connect(host: "127.0.0.1", port: port)
        try SocketOptions.enableZeroCopy(socket.rawValue)
        #expect(try DescriptorIO.takeZeroCopyCompletion(socket.rawValue) == nil)

        let bytes = [UInt8](repeating: 1, count: 4096)
        let sent = bytes.withUnsafeBytes { DescriptorIO.send(socket.rawValue, from: $0, flags: .zeroCopy) }
        #expect(sent == .count(4096))
        let ready = try DescriptorIO.waitUntilReady(socket.rawValue, for: [], timeoutNanoseconds: testDeadline)
        #expect(ready.contains(.error), "no completion has come")
        let error = #expect(throws: SystemCallError.self) {
            try DescriptorIO.takeZeroCopyCompletion(socket.rawValue)
        }
        #expect(error?.errno == .inputOutput)
        #expect(try DescriptorIO.takeZeroCopyCompletion(socket.rawValue) == nil)
    }

    @Test func aSocketWithoutItSaysSo() throws {
        let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
        let error = #expect(throws: SystemCallError.self) { try SocketOptions.enableZeroCopy(pair.first.rawValue) }
        #expect(error?.errno == .notSupported)
    }
}
