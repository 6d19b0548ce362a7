// SPDX-License-Identifier: Apache-2.0
//
// What `vsock connect` and `vsock listen` have in common.

import ArgumentParser
import Vsock
import VsockWire

/// Options of a relay between the standard streams and a socket.
struct RelayOptions: ParsableArguments {
    @Flag(help: "SOCK_SEQPACKET: each line of standard input is a record, each record received is a line.")
    var seqpacket = false

    @Flag(
        name: [.customShort("0"), .customLong("null")],
        help: "With --seqpacket: a zero byte ends a record, not a newline; both ways.")
    var nullSeparated = false

    @Option(
        help: ArgumentHelp(
            "With --seqpacket: records are that many bytes of standard input, the last what is left; what is received is written without separators.",
            valueName: "bytes"))
    var recordSize: Int?

    @OptionGroup var transportOption: TransportOption
    @OptionGroup var captureOption: CaptureOption

    @Flag(
        name: .customLong("no-shutdown"),
        help: "Do not shut down the sending direction at the end of standard input.")
    var noShutdown = false

    @Option(
        help: ArgumentHelp(
            "Receive buffer (262144 unless given); with uds:PATH the send buffer. With --seqpacket it bounds a record: but for uds:PATH, the smaller one of both ends does.",
            valueName: "bytes"))
    var bufferSize: UInt32?

    @Flag(name: .shortAndLong, help: "Report connections on standard error.")
    var verbose = false

    func validate() throws {
        if !seqpacket {
            if nullSeparated { throw ValidationError("--null separates records: it needs --seqpacket") }
            if recordSize != nil { throw ValidationError("--record-size makes records: it needs --seqpacket") }
        }
        if let recordSize {
            guard !nullSeparated else { throw ValidationError("give --null or --record-size, not both") }
            guard (1...RecordInput.maximumRecordByteCount).contains(recordSize) else {
                throw ValidationError(
                    "--record-size is 1 to \(RecordInput.maximumRecordByteCount) bytes, not \(recordSize)")
            }
        }
        try captureOption.validate(for: transport)
        if bufferSize == 0 { throw ValidationError("--buffer-size is at least 1 byte") }
    }

    var transport: VsockTransport { transportOption.transport }

    /// Makes the connections that these options describe.
    var opening: RelayOpening {
        RelayOpening(transport: transport, type: seqpacket ? .seqpacket : .stream, bufferByteCount: bufferSize)
    }

    var content: RelayContent {
        guard seqpacket else { return .bytes }
        if let recordSize { return .records(.size(recordSize)) }
        return .records(.separator(nullSeparated ? 0 : UInt8(ascii: "\n")))
    }

    /// Says what happened, if the user wants to know.
    func note(_ text: @autoclosure () -> String) {
        if verbose { Console.report("vsock: \(text())") }
    }
}
