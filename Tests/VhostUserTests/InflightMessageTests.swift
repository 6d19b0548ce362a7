// SPDX-License-Identifier: Apache-2.0
//
// The two messages of vhost-user.rst "Inflight I/O tracking", from both sides.

import Testing
import VhostUser

@Suite("Inflight messages")
struct InflightMessageTests {
    private let offered: ProtocolFeatures = [.ofSocketDevice, .inflightSharedMemory]
    private let area = InflightArea(byteCount: 6336, mmapOffset: 4096, queueCount: 3, queueSize: 128)

    @Test("the description has the bytes that QEMU sends, padding included")
    func bytes() {
        let message = FrontendRequest.setInflight(area).message()
        #expect(
            message.bytes
                == hex("20000000 01000000 18000000 c018000000000000 0010000000000000 0300 8000 00000000"))
        #expect(message.descriptorCount == 1)
        let request = FrontendRequest.getInflight(InflightArea(queueCount: 3, queueSize: 128)).message(needsReply: true)
        #expect(
            request.bytes
                == hex("1f000000 09000000 18000000 0000000000000000 0000000000000000 0300 8000 00000000"))
        #expect(request.descriptorCount == 0)
    }

    @Test("a back-end answers with an area and a descriptor, or with no bytes and none")
    func reply() throws {
        for result in [BackendResult.inflight(area), .failure] {
            var (frontend, backend) = (FrontendSession(), BackendSession.socketDevice(offered))
            let message = frontend.send(.getInflight(InflightArea(queueCount: 3, queueSize: 128)))
            let request = try backend.receive(message.bytes)
            #expect(request.action == .getInflight(InflightArea(queueCount: 3, queueSize: 128)))
            let completed = backend.complete(request, result)
            let answer = try #require(completed)
            let body = payload(answer.bytes)
            #expect(body.count == InflightArea.encodedByteCount)
            #expect(answer.descriptorCount == (result == .failure ? 0 : 1))
            let reply = try frontend.receive(
                header(answer.bytes), payload: body.span.bytes, descriptorCount: answer.descriptorCount)
            #expect(reply == .inflight(result == .failure ? nil : area))
            #expect(frontend.inflight == (result == .failure ? nil : area))
        }
    }

    @Test("an area without its descriptor, of no queues, of too many or of impossible ones is refused")
    func refusals() {
        let backend = BackendSession.socketDevice(offered)
        func refusal(_ area: InflightArea, descriptorCount: Int = 1) -> VhostUserError? {
            do throws(VhostUserError) {
                let message = FrontendRequest.setInflight(area).message()
                let body = payload(message.bytes)
                _ = try backend.receive(
                    MessageHeader(request: 32, payloadByteCount: body.count), payload: body.span.bytes,
                    descriptorCount: descriptorCount)
                return nil
            } catch {
                return error
            }
        }
        #expect(refusal(area) == nil)
        #expect(refusal(area, descriptorCount: 0) == .wrongDescriptorCount(request: 32, expected: 1, actual: 0))
        for count in [0, 4, 65535] {
            let wrong = InflightArea(byteCount: 1 << 20, queueCount: count, queueSize: 128)
            #expect(refusal(wrong) == .invalidValue(request: .setInflightDescriptor, value: UInt64(count)))
        }
        for size in [0, 1025, 65535] {
            let wrong = InflightArea(byteCount: 1 << 20, queueCount: 3, queueSize: size)
            #expect(refusal(wrong) == .invalidQueueSize(UInt32(size), limit: 1024))
        }
    }

    @Test("the start-up asks for an area and hands it back, before the rings; or hands back an older one")
    func startup() throws {
        for older in [nil, area] {
            var startup = StartupTests.startup()
            startup.protocolFeatures.insert(.inflightSharedMemory)
            startup.inflight = older
            var (frontend, backend) = (FrontendSession(), BackendSession.socketDevice(offered))
            var requests: [FrontendRequest] = []
            while let request = try startup.next(after: frontend) {
                requests.append(request)
                let message = frontend.send(request)
                let received = try backend.receive(message.bytes, descriptorCount: message.descriptorCount)
                var result = BackendResult.success
                if case .getInflight = request { result = .inflight(area) }
                guard let reply = backend.complete(received, result) else { continue }
                let body = payload(reply.bytes)
                _ = try frontend.receive(
                    header(reply.bytes), payload: body.span.bytes, descriptorCount: reply.descriptorCount)
            }
            let set = try #require(requests.firstIndex(of: .setInflight(area)))
            let firstRing = try #require(requests.firstIndex(of: .setQueueSize(queue: 0, size: 128)))
            #expect(set < firstRing)
            let asks = requests.contains(.getInflight(InflightArea(queueCount: 3, queueSize: 128)))
            #expect(asks == (older == nil))
        }
    }
}
