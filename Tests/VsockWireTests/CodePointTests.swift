// SPDX-License-Identifier: Apache-2.0
//
// Numbers of the standard and of the RFC v5 series. They are written out once more here, so that a slip of a finger in
// the source is found.

import Testing
import VsockWire

@Suite("Code points")
struct CodePointTests {
    static let operations: [(Operation, UInt16, String)] = [
        (.invalid, 0, "INVALID"), (.request, 1, "REQUEST"), (.response, 2, "RESPONSE"), (.reset, 3, "RST"),
        (.shutdown, 4, "SHUTDOWN"), (.readWrite, 5, "RW"), (.creditUpdate, 6, "CREDIT_UPDATE"),
        (.creditRequest, 7, "CREDIT_REQUEST"), (.sequenceBegin, 8, "SEQ_BEGIN"), (.sequenceEnd, 9, "SEQ_END"),
        (Operation(rawValue: 10), 10, "op 10"), (Operation(rawValue: 65_535), 65_535, "op 65535"),
    ]

    @Test("of operations, with Linux's names; unknown ones keep their number", arguments: operations)
    func operation(operation: Operation, rawValue: UInt16, name: String) {
        #expect(operation.rawValue == rawValue)
        #expect(operation.description == name)
        #expect(Operation(rawValue: rawValue) == operation)
    }

    @Test("of socket types; unknown ones keep their number")
    func socketTypes() {
        #expect(SocketType.stream.rawValue == 1)
        #expect(SocketType.seqpacket.rawValue == 2)
        #expect(SocketType.stream.description == "STREAM")
        #expect(SocketType.seqpacket.description == "SEQPACKET")
        for rawValue in UInt16.min...UInt16.max {
            let type = SocketType(rawValue: rawValue)
            #expect(type.rawValue == rawValue)
            #expect(type.isKnown == (rawValue == 1 || rawValue == 2))
        }
        #expect(SocketType(rawValue: 3).description == "type 3")
    }

    @Test("of flags; unknown bits survive")
    func flags() {
        #expect(ShutdownFlags.receive.rawValue == 1)
        #expect(ShutdownFlags.send.rawValue == 2)
        #expect(ShutdownFlags.both.rawValue == 3)
        #expect(ShutdownFlags(rawValue: 0xffff_fff0).rawValue == 0xffff_fff0)
        #expect(SequenceFlags.endOfMessage.rawValue == 1)
        #expect(SequenceFlags.endOfRecord.rawValue == 2)
        #expect(SequenceFlags.rfcV5EndOfRecord.rawValue == 1)
        #expect(SequenceFlags(rawValue: 0x8000_0000).rawValue == 0x8000_0000)
    }

    @Test("of features")
    func features() {
        #expect(VsockFeatures.stream.rawValue == 1)
        #expect(VsockFeatures.seqpacket.rawValue == 2)
        #expect(VsockFeatures.noImpliedStream.rawValue == 4)
    }

    @Test(
        "of features: streams are implied unless seqpacket alone was asked for",
        arguments: [
            ([], true), (.stream, true), (.seqpacket, true), (.noImpliedStream, true),
            ([.stream, .seqpacket], true), ([.stream, .noImpliedStream], true),
            ([.seqpacket, .noImpliedStream], false), ([.stream, .seqpacket, .noImpliedStream], true),
        ] as [(VsockFeatures, Bool)])
    func streamIsImplied(features: VsockFeatures, allowsStream: Bool) {
        #expect(features.allowsStream == allowsStream)
    }

    @Test("of addresses, as in vsock(7)")
    func addresses() {
        #expect(VsockAddress.ContextID.any.rawValue == 0xffff_ffff)
        #expect(VsockAddress.ContextID.hypervisor.rawValue == 0)
        #expect(VsockAddress.ContextID.local.rawValue == 1)
        #expect(VsockAddress.ContextID.host.rawValue == 2)
        #expect(VsockAddress.Port.any.rawValue == 0xffff_ffff)
        #expect(VsockAddress.Port.lastReserved.rawValue == 1023)
        #expect(VsockAddress(cid: 3, port: 1234).description == "3:1234")
        #expect(VsockAddress("3:1234") == VsockAddress(cid: 3, port: 1234))
        #expect(VsockAddress.Port("4294967295") == .any)
    }

    @Test(
        "of addresses, only what is one is read",
        arguments: ["", ":", "3", "3:", ":1", "3:1:1", "3:4294967296", "-1:1", "3: 1", "host:1", "3:0x1"])
    func noAddress(text: String) { #expect(VsockAddress(text) == nil) }

    @Test("of context IDs: 0, 1, 2 and all ones are never a guest's")
    func reservedContextIDs() {
        for reserved in [0, 1, 2, 0xffff_ffff] as [VsockAddress.ContextID] { #expect(!reserved.isGuest) }
        for free in [3, 4, 0x7fff_ffff, 0xffff_fffe] as [VsockAddress.ContextID] { #expect(free.isGuest) }
    }
}
