// SPDX-License-Identifier: Apache-2.0
//
// Errors carry Linux's numbers (asm-generic/errno.h).

import Testing
import VsockCore

@Suite("Socket errors")
struct SocketErrorTests {
    @Test(
        "have Linux's errno and its name",
        arguments: [
            (.brokenPipe, 32, "EPIPE"), (.protocolError, 71, "EPROTO"), (.messageTooLong, 90, "EMSGSIZE"),
            (.socketTypeNotSupported, 94, "ESOCKTNOSUPPORT"), (.addressInUse, 98, "EADDRINUSE"),
            (.connectionReset, 104, "ECONNRESET"), (.noBufferSpace, 105, "ENOBUFS"),
            (.notConnected, 107, "ENOTCONN"), (.timedOut, 110, "ETIMEDOUT"),
        ] as [(SocketError, Int32, String)])
    func errno(error: SocketError, errno: Int32, name: String) {
        #expect(error.errno == errno)
        #expect(error.name == name)
        #expect(SocketError(errno: errno) == error)
    }

    @Test("keep an errno of the kernel that has no name here")
    func unnamed() {
        let error = SocketError(errno: 4095)
        #expect(error == .system(errno: 4095) && error.errno == 4095 && error.name == "errno 4095")
    }
}
