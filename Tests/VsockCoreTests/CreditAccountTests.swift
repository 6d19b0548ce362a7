// SPDX-License-Identifier: Apache-2.0
//
// virtio 1.3 "Socket Device / Buffer Space Management": the arithmetic of one connection's credit.

import Testing
import VsockCore
import VsockTestSupport
import VsockWire

@Suite("Credit account")
struct CreditAccountTests {
    struct Row: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var allocation: UInt32
        var transmitted: Int
        var forwarded: UInt32
        var free: Int

        init(_ name: String, buf: UInt32, tx: Int, fwd: UInt32, free: Int) {
            (testDescription, allocation, transmitted, forwarded, self.free) = (name, buf, tx, fwd, free)
        }
    }

    static let rows = [
        Row("nothing sent", buf: 262_144, tx: 0, fwd: 0, free: 262_144),
        Row("buffer full", buf: 262_144, tx: 262_144, fwd: 0, free: 0),
        Row("one byte consumed", buf: 262_144, tx: 262_144, fwd: 1, free: 1),
        Row("no buffer", buf: 0, tx: 0, fwd: 0, free: 0),
        Row("largest buffer", buf: .max, tx: 0, fwd: 0, free: 0xffff_ffff),
        Row("tx_cnt has wrapped", buf: 100, tx: 0x1_0000_0005, fwd: 0xffff_fffb, free: 90),
        Row("both have wrapped", buf: 100, tx: 0x1_0000_0005, fwd: 5, free: 100),
        Row("wrapped and full", buf: 10, tx: 0x1_0000_0005, fwd: 0xffff_fffb, free: 0),
        Row("shrunk below what is out", buf: 100, tx: 300, fwd: 0, free: 0),
        Row("shrunk to exactly what is out", buf: 300, tx: 300, fwd: 0, free: 0),
        Row("shrunk, partly consumed", buf: 100, tx: 300, fwd: 250, free: 50),
        Row("shrunk to nothing", buf: 0, tx: 1, fwd: 0, free: 0),
        Row("consumed more than was sent", buf: 100, tx: 10, fwd: 11, free: 0),
        Row("consumed far more than was sent", buf: 262_144, tx: 0, fwd: 0x8000_0000, free: 0),
        Row("consumed counts backwards", buf: 262_144, tx: 300_000, fwd: 0, free: 0),
    ]

    static func account(_ row: Row) -> CreditAccount {
        var account = CreditAccount(bufferAllocation: 1)
        account.transmit(row.transmitted)
        var peer = PacketBuilder()
        peer.bufferAllocation = row.allocation
        peer.forwardedCount = row.forwarded
        account.update(from: peer.packet(.creditUpdate))
        return account
    }

    @Test("tells what may be sent", arguments: rows)
    func free(row: Row) { #expect(Self.account(row).peerFreeByteCount == row.free) }

    @Test("never tells more than the peer's buffer, whatever the peer says")
    func freeIsBounded() {
        var random = PRNG(seed: 1)
        for _ in 0..<10_000 {
            let row = Row(
                "random", buf: UInt32(truncatingIfNeeded: random.next()), tx: Int(random.next() >> 16),
                fwd: UInt32(truncatingIfNeeded: random.next()), free: 0)
            let free = Self.account(row).peerFreeByteCount
            #expect(free >= 0 && free <= Int(row.allocation), "seed 1: \(row)")
        }
    }

    @Test("refuses what exceeds the buffer and counts nothing of it")
    func receivedIsBounded() {
        var account = CreditAccount(bufferAllocation: 100)
        for (byteCount, fits, total) in [
            (60, true, 60), (41, false, 60), (.max, false, 60), (40, true, 100), (1, false, 100), (0, true, 100),
        ] as [(UInt32, Bool, UInt32)] {
            let isReceived = account.receive(byteCount)
            #expect(isReceived == fits, "\(byteCount) more")
            #expect(account.receivedByteCount == total)
        }
        account.consume(1)
        let isReceived = account.receive(1)
        #expect(isReceived)
        #expect(account.forwardedCount == 1)
    }

    @Test("counts consumed bytes beyond 2^32")
    func forwardedCountWraps() {
        var account = CreditAccount(bufferAllocation: .max)
        for _ in 0..<3 {
            let isReceived = account.receive(0x6000_0000)
            #expect(isReceived)
            account.consume(0x6000_0000)
        }
        #expect(account.forwardedCount == 0x2000_0000)
        #expect(account.receivedByteCount == 0)
        account.advertise()
        #expect(!account.needsUpdate)
    }

    @Test("resizes the buffer, down to what it holds, and further as that is consumed")
    func resize() {
        var account = CreditAccount(bufferAllocation: 100)
        let isReceived = account.receive(80)
        #expect(isReceived)
        account.resize(to: 10)
        #expect(account.bufferAllocation == 80)
        account.consume(60)
        #expect(account.bufferAllocation == 20)
        account.consume(20)
        #expect(account.bufferAllocation == 10)
        account.resize(to: 1000)
        #expect(account.bufferAllocation == 1000)
    }

    @Test("wants no update while nothing is untold")
    func nothingUntold() {
        var account = CreditAccount(bufferAllocation: 100)
        #expect(!account.needsUpdate)
        let isReceived = account.receive(100)
        #expect(isReceived)
        #expect(!account.needsUpdate)
        account.consume(100)
        #expect(account.needsUpdate)
        account.advertise()
        #expect(!account.needsUpdate)
    }

    @Test("wants few updates while the peer has plenty of space")
    func updatesAreFew() {
        var account = CreditAccount(bufferAllocation: 262_144)
        var updateCount = 0
        for _ in 0..<10_000 {
            let isReceived = account.receive(1000)
            #expect(isReceived)
            account.consume(1000)
            if account.needsUpdate {
                updateCount += 1
                account.advertise()
            }
        }
        // Half a buffer at a time: 10 MB / 128 KiB.
        #expect(updateCount <= 80)
    }
}
