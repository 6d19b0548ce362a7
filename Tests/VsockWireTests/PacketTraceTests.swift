// SPDX-License-Identifier: Apache-2.0
//
// The lines of Linux's trace events, with the fields that RFC v5 adds.

import Testing
import VsockTestSupport

@testable import VsockWire

@Suite("Trace lines")
struct PacketTraceTests {
    private static func packet(
        _ operation: Operation, _ type: SocketType = .seqpacket, flags: UInt32 = 0, length: UInt32 = 0,
        from port: UInt32 = 0x10000
    ) -> PacketHeader {
        PacketHeader(
            sourceCID: 3, destinationCID: 2, sourcePort: port, destinationPort: 1234, payloadByteCount: length,
            type: type, operation: operation, flags: flags, bufferAllocation: 262_144, forwardedCount: 21)
    }

    private static let credit = "buf_alloc=262144 fwd_cnt=21"

    @Test("have every field in Linux's order")
    func fields() {
        #expect(
            Self.packet(.readWrite, flags: 0x10001, length: 5).traceLine()
                == "3:65536 -> 2:1234 len=5 type=SEQPACKET op=RW flags=0x10001 \(Self.credit) msg_len=0 msg_cnt=0")
        #expect(
            Self.packet(.sequenceBegin, length: 8)
                .traceLine(marker: SequenceHeader(messageCount: 7, messageByteCount: 0xffff_ffff))
                == "3:65536 -> 2:1234 len=8 type=SEQPACKET op=SEQ_BEGIN flags=0x0 \(Self.credit)"
                + " msg_len=4294967295 msg_cnt=7")
    }

    @Test("name every operation, and give a value without a name in hexadecimal")
    func names() {
        let names = (UInt16(0)...10).map { value -> String in
            let line = Self.packet(Operation(rawValue: value), .stream).traceLine()
            return line.split(separator: " ").first { $0.hasPrefix("op=") }.map(String.init) ?? ""
        }
        #expect(
            names == [
                "op=INVALID", "op=REQUEST", "op=RESPONSE", "op=RST", "op=SHUTDOWN", "op=RW", "op=CREDIT_UPDATE",
                "op=CREDIT_REQUEST", "op=SEQ_BEGIN", "op=SEQ_END", "op=0xa",
            ])
        #expect(Self.packet(.request, SocketType(rawValue: 0xbeef)).traceLine().contains(" type=0xbeef op=REQUEST "))
        #expect(Self.packet(.request, .stream).traceLine().contains(" type=STREAM "))
    }

    /// What a tracer says behind the fields.
    private func remark(_ tracer: inout PacketTracer, _ header: PacketHeader) -> String {
        let line = tracer.line(header)
        let plain = header.traceLine()
        #expect(line.hasPrefix(plain))
        return String(line.dropFirst(plain.count))
    }

    @Test("name the flags as the framing means them: bit 0 is RW_EOR between SEQ_BEGIN and SEQ_END, else SEQ_EOM")
    func framings() {
        var tracer = PacketTracer()
        let data = Self.packet(.readWrite, flags: 1, length: 5)
        #expect(remark(&tracer, data) == " (SEQ_EOM)")
        #expect(remark(&tracer, Self.packet(.readWrite, flags: 3)) == " (SEQ_EOM|SEQ_EOR)")
        #expect(remark(&tracer, Self.packet(.readWrite)) == "")
        #expect(remark(&tracer, Self.packet(.sequenceBegin)) == "")
        #expect(remark(&tracer, data) == " (RW_EOR)")
        // Another connection, and the other direction of this one.
        #expect(remark(&tracer, Self.packet(.readWrite, flags: 1, from: 5)) == " (SEQ_EOM)")
        #expect(remark(&tracer, Self.packet(.sequenceEnd)) == "")
        #expect(remark(&tracer, data) == " (SEQ_EOM)")
        #expect(remark(&tracer, Self.packet(.readWrite, .stream, flags: 3)) == "")
        #expect(remark(&tracer, Self.packet(.shutdown, .stream, flags: 1)) == " (RCV)")
        #expect(remark(&tracer, Self.packet(.shutdown, flags: 3)) == " (RCV|SEND)")
    }

    @Test("a record that was left open ends with its connection, by either side", arguments: [false, true])
    func reset(byPeer: Bool) {
        var tracer = PacketTracer()
        _ = tracer.line(Self.packet(.sequenceBegin))
        var reset = Self.packet(.reset)
        if byPeer {
            swap(&reset.sourceCID, &reset.destinationCID)
            swap(&reset.sourcePort, &reset.destinationPort)
        }
        _ = tracer.line(reset)
        #expect(remark(&tracer, Self.packet(.readWrite, flags: 1)) == " (SEQ_EOM)")
    }

    @Test("records that are never closed are remembered up to a limit")
    func limit() {
        var tracer = PacketTracer()
        for port in 0...UInt32(PacketTracer.maximumOpenRecordCount) {
            _ = tracer.line(Self.packet(.sequenceBegin, from: port))
        }
        let last = UInt32(PacketTracer.maximumOpenRecordCount)
        #expect(remark(&tracer, Self.packet(.readWrite, flags: 1, from: last - 1)) == " (RW_EOR)")
        #expect(remark(&tracer, Self.packet(.readWrite, flags: 1, from: last)) == " (SEQ_EOM)")
    }
}
