// SPDX-License-Identifier: Apache-2.0
//
// The suites of `vsock test`. Cases, order and names are those of the kernel's vsock_test (tools/testing/vsock), of
// Linux 6.12 and of the RFC v5 series: both sides run the same list, each its half of every case, and either may be
// the kernel's own program.

import VsockWire

/// One case: what a side does in it. A side without a half has nothing to do.
struct TestCase: Sendable {
    typealias Half = @Sendable (TestSide) throws -> Void

    let name: String
    let client: Half?
    let server: Half?
    /// Where this program does something else than the kernel's, because the kernel's own machinery is the subject.
    let note: String?
    /// What of the transport the case is about.
    let needs: Set<TestNeed>

    init(
        _ name: String, client: Half? = nil, server: Half? = nil, note: String? = nil, needs: Set<TestNeed> = []
    ) {
        self.name = name
        self.client = client
        self.server = server
        self.note = note
        self.needs = needs
    }
}

/// Something that not every transport has.
enum TestNeed: Sendable {
    /// SO_VM_SOCKETS_BUFFER_SIZE, and the credit that follows from it.
    case bufferSize
    /// MSG_EOR
    case endOfRecord
    /// bind(2) of a socket that connects.
    case localPort
    /// EMSGSIZE for a record larger than the peer's buffer.
    case recordLimit
}

/// A list of cases.
enum TestSuite: String, CaseIterable, Sendable {
    case linux612 = "linux-6.12"
    case rfcV5 = "rfc-v5"

    var cases: [TestCase] {
        switch self {
        case .linux612: Self.linux612Cases
        case .rfcV5: Self.rfcV5Cases
        }
    }

    /// Whether the sides tell each other after the last case that they are through. The program of the series does not.
    var endsTogether: Bool { self == .linux612 }

    private static let linux612Cases = [
        ConnectionCases.connectionReset,
        ConnectionCases.bindOnly,
        ConnectionCases.clientClose,
        ConnectionCases.serverClose,
        ConnectionCases.multipleConnections,
        PeekCases.peek(.stream),
        RecordCases.messageBounds,
        RecordCases.truncation,
        RecordCases.receiveTimeout,
        BufferCases.invalidReceiveBuffer,
        CreditCases.pollWithLowWaterMark,
        RecordCases.bigMessage,
        BufferCases.invalidBuffer(.stream),
        BufferCases.invalidBuffer(.seqpacket),
        BufferCases.merge,
        PeekCases.peek(.seqpacket),
        ConnectionCases.shutdownSend,
        ConnectionCases.shutdownReceive,
        ZeroCopyCases.transfers(.stream),
        ZeroCopyCases.transfers(.seqpacket),
        ZeroCopyCases.emptyErrorQueue,
        ConnectionCases.doubleBindConnect,
        CreditCases.creditUpdateByLowWaterMark,
        CreditCases.creditUpdateByLowCount,
        CreditCases.unsentBytes(.stream),
        CreditCases.unsentBytes(.seqpacket),
    ]

    private static let rfcV5Cases = [
        ConnectionCases.connectionReset,
        ConnectionCases.bindOnly,
        ConnectionCases.clientClose,
        ConnectionCases.serverClose,
        ConnectionCases.multipleConnections,
        PeekCases.peekOneByte,
        SeriesCases.endOfRecord,
        SeriesCases.truncation,
    ]
}
