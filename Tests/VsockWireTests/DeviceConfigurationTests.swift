// SPDX-License-Identifier: Apache-2.0
//
// virtio 1.3 "Socket Device / Device configuration layout" and "Device Events".

import Testing
import VsockTestSupport
import VsockWire

@Suite("Configuration space")
struct DeviceConfigurationTests {
    @Test("is the context ID in 64 bits, little-endian")
    func bytes() {
        #expect(DeviceConfiguration.deviceID == 19)
        #expect(DeviceConfiguration.byteCount == 8)
        let configuration = DeviceConfiguration(guestCID: 0x0403_0201)
        #expect(configuration.bytes == [1, 2, 3, 4, 0, 0, 0, 0])
        #expect(configuration.bytes.withUnsafeBytes { DeviceConfiguration($0) } == configuration)
    }

    @Test("is not read from fewer than 8 bytes", arguments: 0..<8)
    func shortIsRefused(byteCount: Int) {
        let bytes = [UInt8](repeating: 0, count: byteCount)
        #expect(bytes.withUnsafeBytes { DeviceConfiguration($0) } == nil)
    }

    @Test("is refused when a reserved bit is set", arguments: 32..<64 as Range<UInt64>)
    func reservedBitsAreRefused(bit: UInt64) {
        let bytes = withUnsafeBytes(of: (3 | 1 << bit as UInt64).littleEndian) { Array($0) }
        #expect(bytes.withUnsafeBytes { DeviceConfiguration($0) } == nil)
    }
}

@Suite("Event queue")
struct DeviceEventTests {
    @Test("TRANSPORT_RESET is four zero bytes")
    func transportReset() {
        var bytes = [UInt8](repeating: 0xee, count: 5)
        bytes.withUnsafeMutableBytes { DeviceEvent.transportReset.write(to: $0) }
        #expect(bytes == [0, 0, 0, 0, 0xee])
        #expect(DeviceEvent.byteCount == 4)
        #expect(bytes.withUnsafeBytes { DeviceEvent($0) } == .transportReset)
    }

    @Test("unknown and short events are nil")
    func unknownIsNil() {
        for byteCount in 0..<4 {
            #expect([UInt8](repeating: 0, count: byteCount).withUnsafeBytes { DeviceEvent($0) } == nil)
        }
        for bytes in [[1, 0, 0, 0], [0, 0, 0, 1], [0xff, 0xff, 0xff, 0xff]] as [[UInt8]] {
            #expect(bytes.withUnsafeBytes { DeviceEvent($0) } == nil)
        }
    }
}
