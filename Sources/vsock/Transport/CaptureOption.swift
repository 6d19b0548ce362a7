// SPDX-License-Identifier: Apache-2.0
//
// `--capture` of commands whose transport is in the process.

import ArgumentParser
import Logging
import Vsock
import VsockSystem
import VsockTransport

/// A file for the packets that cross.
struct CaptureOption: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Capture the packets into a pcap file: with loopback, device and driver. See vsock dump.",
            valueName: "file"))
    var capture: String?

    /// The packets of some transports cross elsewhere.
    func validate(for transport: VsockTransport) throws {
        guard capture != nil else { return }
        switch transport.kind {
        case .kernel: throw ValidationError("--capture: with kernel, packets cross in the kernel (its vsockmon device)")
        case .uds: throw ValidationError("--capture: with uds, packets cross in the device: vsock serve --capture")
        case .loopback, .device, .driver: break
        }
    }

    /// Begins the capture of a transport, if there is to be one. Finish it in the end.
    func start(_ transport: VsockTransport) throws -> PacketCapture? {
        guard let capture = try open() else { return nil }
        do throws(TransportError) {
            try transport.setTap(capture)
        } catch {
            throw Failure(error.description)
        }
        return capture
    }

    /// Opens the file, if there is to be one. Finish the capture in the end.
    func open() throws -> PacketCapture? {
        guard let path = capture else { return nil }
        let log = Logger(label: "vsock", factory: { StreamLogHandler.standardError(label: $0) })
        do throws(SystemCallError) {
            return try PacketCapture(path: path, log: log)
        } catch {
            throw Failure("--capture: \(error)")
        }
    }
}
