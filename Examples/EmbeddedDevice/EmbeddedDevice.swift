// SPDX-License-Identifier: Apache-2.0
//
// A program beside a monitor that is the vsock device of its VM: the guest's connections end in this process, without a
// daemon and without sockets in the file system but the one that the monitor connects to.
//
//     EmbeddedDevice /tmp/vm3.sock 1234
//
// Then boot the VM on /tmp/vm3.sock; in the guest, RecordClient kernel 2:1234 hello

import Glibc
import Vsock

@main
struct EmbeddedDevice {
    static func main() async throws {
        let arguments = CommandLine.arguments
        guard arguments.count == 3, let port = VsockAddress.Port(arguments[2]) else {
            print("usage: EmbeddedDevice SOCKET PORT")
            exit(64)
        }
        // The host of a VM has context ID 2; its guest gets 3.
        let device = VsockTransport.device(arguments[1], guestCID: 3)
        let listener = try await VsockListener.bind(.seqpacket, port: port, on: device)
        print("-chardev socket,id=vsock,path=\(arguments[1]) -device vhost-user-vsock-pci,chardev=vsock")
        fflush(nil)

        // Connections end when the guest reboots or the monitor leaves; the device and the listener stay.
        try await withThrowingDiscardingTaskGroup { group in
            for try await socket in listener {
                group.addTask { await answer(socket) }
            }
        }
    }

    static func answer(_ socket: VsockSocket) async {
        guard let guest = socket.peerAddress else { return }
        var buffer = [UInt8](repeating: 0, count: 65536)
        do throws(SocketError) {
            while true {
                let request = try await socket.receive(into: &buffer)
                if request.isEnd { break }
                print("\(guest) says: \(String(decoding: buffer[..<request.count], as: UTF8.self))")
                try await socket.send(Array("\(request.count) bytes from \(guest.cid)".utf8))
            }
            print("\(guest) has left")
        } catch {
            print("\(guest): \(error)")
        }
        fflush(nil)
    }
}
