// SPDX-License-Identifier: Apache-2.0
//
// The side that connects.

import Vsock

/// Sends records and a stream, and checks that they come back.
func converse(over transport: VsockTransport) async throws {
    let cid = try Conversation.peer(of: transport)

    // A port without a listener refuses at once.
    do {
        _ = try await VsockSocket.connect(
            .stream, to: VsockAddress(cid: cid, port: Conversation.silentPort), over: transport)
    } catch let error as SocketError {
        print("nobody there: \(error)")
    }

    // Records: each comes back as one.
    let records = try await VsockSocket.connect(
        .seqpacket, to: VsockAddress(cid: cid, port: Conversation.recordPort), over: transport)
    var buffer = [UInt8](repeating: 0, count: 100_000)
    for count in [1, 1000, 100_000] {
        try await records.send([UInt8](repeating: UInt8(truncatingIfNeeded: count), count: count), endOfRecord: true)
        let echo = try await records.receive(into: &buffer)
        print("record: \(echo.count) of \(count) bytes")
    }
    // One that is too long for the buffer is cut and says so, and the next one is whole.
    var small: [UInt8] = [0, 0, 0, 0]
    try await records.send(Array("too long".utf8))
    try await records.send(Array("next".utf8))
    for _ in 1...2 {
        let echo = try await records.receive(into: &small)
        let text = String(decoding: small[..<echo.count], as: UTF8.self)
        print("record: \(text), \(echo.fullLength) bytes\(echo.truncated ? ", cut" : "")")
    }
    // Many at once, more than buffers hold: who sends waits, and each record stays one.
    async let sending: Void = {
        for number in 1...20 {
            try await records.send([UInt8](repeating: UInt8(number), count: 90_000 + number))
        }
    }()
    var intact = 0
    for number in 1...20 {
        let echo = try await records.receive(into: &buffer)
        let isEqual = buffer[..<echo.count].allSatisfy { $0 == UInt8(number) }
        if echo.count == 90_000 + number, isEqual { intact += 1 }
    }
    try await sending
    print("records at once: \(intact) of 20 intact")
    // The end of what we say is not the end of what we hear.
    try records.shutdown(.send)
    print("records end: \(try await records.receive(into: &buffer).isEnd)")

    // A stream: the bytes come back while they go.
    let stream = try await VsockSocket.connect(
        .stream, to: VsockAddress(cid: cid, port: Conversation.streamPort), over: transport)
    let bytes = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 / 251) }
    async let sent = stream.send(bytes)
    var echo = [UInt8](repeating: 0, count: bytes.count)
    let received = try await stream.receive(into: &echo, options: ReceiveOptions(waitsForAll: true))
    print("stream: \(try await sent) bytes out, \(received.count) back, \(echo == bytes ? "equal" : "different")")
    try stream.shutdown(.send)
    print("stream ends: \(try await stream.receive(into: &echo).isEnd)")
}
