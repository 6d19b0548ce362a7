// SPDX-License-Identifier: Apache-2.0
//
// The buffers that the API takes: spans, arrays, and buffers with a free end; for tasks and for threads.

import Testing
import Vsock

@Suite("Buffers", .timeLimit(.minutes(10)))
struct BufferTests {
    @Test("spans carry records for tasks", arguments: Setup.allCases)
    func spans(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.seqpacket)
        let record = pattern(1000)
        #expect(try await client.send(record.span.bytes, options: SendOptions(endOfRecord: true)) == 1000)
        var buffer = [UInt8](repeating: 0, count: 2000)
        var span = buffer.mutableSpan
        var bytes = span.mutableBytes
        let result = try await server.receive(into: &bytes)
        #expect(result == ReceiveResult(count: 1000, fullLength: 1000, endOfRecord: true))
        #expect(Array(buffer[..<1000]) == record)
    }

    @Test("a buffer is filled from its free end, across waits, and no further than it reaches")
    func appending() async throws {
        let (client, server) = try await Setup.loopback.make().pair(.stream)
        let storage = UnsafeMutableRawBufferPointer.allocate(byteCount: 6, alignment: 1)
        defer { storage.deallocate() }
        var buffer = OutputRawSpan(buffer: storage, initializedCount: 0)
        buffer.append(9 as UInt8)
        async let sent: Void = {
            try await client.send([1, 2])
            try await client.send([3, 4, 5, 6])
        }()
        let all = try await server.receive(appendingTo: &buffer, options: ReceiveOptions(waitsForAll: true))
        try await sent
        #expect(all.count == 5)
        let count = buffer.byteCount
        #expect(count == 6)
        // Nothing is free, so nothing is taken.
        let none = try await server.receive(appendingTo: &buffer)
        #expect(none == ReceiveResult())
        #expect(Array(storage) == [9, 1, 2, 3, 4, 5])
        #expect(try await server.next() == [6])
    }

    @Test("a cancelled receive leaves the buffer's free end where it was")
    func cancelledAppending() async throws {
        let (client, server) = try await Setup.loopback.make().pair(.stream)
        let task = Task {
            let storage = UnsafeMutableRawBufferPointer.allocate(byteCount: 6, alignment: 1)
            defer { storage.deallocate() }
            var buffer = OutputRawSpan(buffer: storage, initializedCount: 0)
            do throws(SocketError) {
                _ = try await server.receive(appendingTo: &buffer)
            } catch {
                return (error as SocketError?, buffer.byteCount)
            }
            return (nil, buffer.byteCount)
        }
        task.cancel()
        #expect(await task.value == (.cancelled, 0))
        try await client.send([1])
        #expect(try await server.next() == [1])
    }

    @Test("spans, arrays and free ends for threads")
    func blocking() throws {
        let transport = VsockTransport.isolatedLoopback()
        let listener = try VsockListener.bindBlocking(.seqpacket, port: 5, on: transport)
        let client = try VsockSocket.connectBlocking(
            .seqpacket, to: VsockAddress(cid: .local, port: 5), over: transport)
        let server = try listener.acceptBlocking()
        let record = pattern(10)
        #expect(try client.blocking.send(record.span.bytes) == 10)
        #expect(try client.blocking.send(record, options: SendOptions(endOfRecord: true)) == 10)
        #expect(try client.blocking.send(record, endOfRecord: true) == 10)
        var buffer = [UInt8](repeating: 0, count: 10)
        do {
            var span = buffer.mutableSpan
            var bytes = span.mutableBytes
            let result = try server.blocking.receive(into: &bytes)
            #expect(result == ReceiveResult(count: 10, fullLength: 10))
        }
        #expect(buffer == record)
        #expect(try server.blocking.receive(into: &buffer).endOfRecord)
        let storage = UnsafeMutableRawBufferPointer.allocate(byteCount: 8, alignment: 1)
        defer { storage.deallocate() }
        var output = OutputRawSpan(buffer: storage, initializedCount: 0)
        let cut = try server.blocking.receive(appendingTo: &output)
        #expect(cut == ReceiveResult(count: 8, fullLength: 10, endOfRecord: true, truncated: true))
        let count = output.byteCount
        #expect(count == 8)
        #expect(Array(storage) == Array(record[..<8]))
        client.close()
        #expect(throws: SocketError.badDescriptor) { _ = try client.blocking.send(record) }
    }
}
