// SPDX-License-Identifier: Apache-2.0
//
// `--transport`, the same option of every command that reaches a peer. Its grammar is VsockTransport's.

import ArgumentParser
import Vsock

/// How the other end is reached.
struct TransportOption: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "How the other end is reached: kernel (AF_VSOCK), loopback (within this process), device:SOCKET[,guest-cid=N][,seqpacket=MODE] (as the host of a VM whose monitor connects to SOCKET), driver:SOCKET[,seqpacket=MODE] (as the guest of the device that listens on SOCKET), uds:PATH (as the host, through the hybrid sockets of a running device).",
            valueName: "transport"),
        transform: Self.parse)
    var transport = VsockTransport.kernel

    private static func parse(_ text: String) throws -> VsockTransport {
        do throws(TransportError) {
            return try VsockTransport(text)
        } catch {
            throw ValidationError(error.description)
        }
    }
}
