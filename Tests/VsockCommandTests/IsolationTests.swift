// SPDX-License-Identifier: Apache-2.0
//
// One hostile VM among three of a `vsock serve`: the others lose no byte, and the process neither ends nor grows.
//
// VSOCK_ATTACK_SECONDS is how long each attack goes on; `make isolation` takes some seconds and prints what share of
// their throughput the others keep: of what they have beside a VM that computes and leaves its device alone, for a
// guest's own processor time is not the device's to limit, and of what they have beside an idle one. VSOCK_THREADS is the
// number of the daemon's threads: with two of them, the second of the others shares one with the hostile VM.

import Glibc
import Testing
import VsockSystem
import VsockTestSupport

@testable import VsockTransport

@Suite struct IsolationTests {
    private static let seconds = getenv("VSOCK_ATTACK_SECONDS").flatMap { Double(String(cString: $0)) }
    /// VSOCK_ATTACKS names those that are run, separated by commas; all of them without it.
    private static let attacks: [Attack] = {
        guard let names = getenv("VSOCK_ATTACKS").map({ String(cString: $0) }) else {
            guard isThreadSanitized else { return Attack.allCases }
            print("memoryShortened: SKIPPED, the handler of SIGBUS would wait for a lock of ThreadSanitizer's own")
            return Attack.allCases.filter { $0 != .memoryShortened }
        }
        return names.split(separator: ",").compactMap { Attack(rawValue: String($0)) }
    }()
    /// How long an attack, or what it is compared with, goes on at a time: they take turns.
    private static let sliceNanoseconds: UInt64 = seconds == nil ? 200_000_000 : 1_000_000_000
    /// What a daemon may grow by under all attacks: buffers that are kept for reuse, and what the allocator keeps.
    private static let growthLimit = 32 << 20

    /// What the third VM does while the two others are looked at.
    private enum Neighbour: CaseIterable {
        /// Nothing.
        case idle
        /// It has a processor to do, and nothing for its device.
        case computing
        case attacking
    }

    @Test("whatever a VM does, the others lose no byte, and the daemon neither ends nor grows")
    func attacks() throws {
        let directory = try TemporaryDirectory()
        let vms = [3, 4, 5].flatMap { cid in
            ["--vm", "guest-cid=\(cid),socket=\(directory.path)/s\(cid),uds-path=\(directory.path)/v\(cid)"]
        }
        let threads = getenv("VSOCK_THREADS").map { ["--threads", String(cString: $0)] } ?? []
        let begin = MonotonicClock.now()
        let serve = try RunningCommand(["serve"] + threads + vms)
        var announced = ""
        while announced.ranges(of: "QEMU").count < 3 { announced += try readText(serve.output, until: "\n") }
        // Programs that take connections and never read.
        let listeners = [
            try UnixListener(UnixAddress("\(directory.path)/v3_6000"), type: .stream),
            try UnixListener(UnixAddress("\(directory.path)/v3_6001"), type: .seqpacket),
        ]
        let target = Attack.Target(
            cid: 3, socketPath: "\(directory.path)/s3", hybridPath: "\(directory.path)/v3", hostPort: 6000,
            siblings: [4, 5, 6])
        let others = try [4, 5].map { cid in
            try GuestTraffic(path: "\(directory.path)/s\(cid)", hybridPath: "\(directory.path)/v\(cid)")
        }
        func received() -> [Int] { others.map(\.receivedByteCount) }
        /// Bytes a second of the others while `body` runs.
        func rates(_ body: () -> Void) -> [Double] {
            let (before, start) = (received(), MonotonicClock.now())
            body()
            let seconds = Double(MonotonicClock.now() - start) / 1e9
            return zip(received(), before).map { Double($0 - $1) / seconds }
        }
        let never = try EventNotifier()
        func pause(until end: UInt64) {
            let now = MonotonicClock.now()
            _ = try? DescriptorIO.waitUntilReady(
                never.rawDescriptor, for: .readable, timeoutNanoseconds: end > now ? end - now : 0)
        }

        try poll { received().allSatisfy { $0 > 4 << 20 } }
        // Once each, so that what is kept for reuse is there.
        var random = SeededGenerator(seed: 1)
        for attack in Self.attacks {
            attack.run(target, until: MonotonicClock.now() + 50_000_000, random: &random)
        }
        let before = try DaemonFootprint(of: serve.processID)
        for (seed, attack) in Self.attacks.enumerated() {
            var random = SeededGenerator(seed: UInt64(seed))
            var totals = Dictionary(uniqueKeysWithValues: Neighbour.allCases.map { ($0, [0.0, 0.0]) })
            for _ in 0..<(Self.seconds.map { max(1, Int($0)) } ?? 1) {
                for neighbour in Self.seconds == nil ? [.attacking] : Neighbour.allCases {
                    let begin = MonotonicClock.now()
                    let end = begin + Self.sliceNanoseconds
                    let rates = rates {
                        switch neighbour {
                        case .idle: pause(until: end)
                        case .computing: while MonotonicClock.now() < end {}
                        case .attacking: attack.run(target, until: end, random: &random)
                        }
                    }
                    try #require(MonotonicClock.now() - begin < testDeadline, "after \(attack) no monitor is served")
                    totals[neighbour] = zip(totals[neighbour] ?? [], rates).map { $0 + $1 }
                }
            }
            let isAlive = kill(serve.processID, 0) == 0
            #expect(isAlive, "\(attack), seed \(seed)")
            let start = received()
            try poll { zip(received(), start).allSatisfy { $0 > $1 } }
            guard Self.seconds != nil else { continue }
            func shares(of neighbour: Neighbour) -> String {
                zip(totals[.attacking] ?? [], totals[neighbour] ?? []).map { "\(Int(100 * $0 / max(1, $1))) %" }
                    .joined(separator: ", ")
            }
            print("\(attack.rawValue): \(shares(of: .computing)); against idle: \(shares(of: .idle))")
        }
        for traffic in others {
            let isWhole = try traffic.finish()
            #expect(isWhole)
        }
        // The last session of the attacker, and its connections, end by themselves.
        try poll { try DaemonFootprint(of: serve.processID).descriptorCount <= before.descriptorCount }
        let after = try DaemonFootprint(of: serve.processID)
        #expect(isSanitized || after.anonymousByteCount <= before.anonymousByteCount + Self.growthLimit)
        if Self.seconds != nil { print("before: \(before); after: \(after)") }
        try serve.kill(SIGTERM)
        let result = try serve.finish()
        #expect(result.status == 0)
        // A VM has so many lines in a second, and as many of errors, whatever it does.
        let seconds = Int((MonotonicClock.now() - begin) / 1_000_000_000) + 2
        let lines = result.error.split(separator: "\n").filter { $0.contains("cid=3") }
        #expect(lines.count <= 2 * seconds * BoundedLog.linesPerSecond, "\(result.error.prefix(4096))")
        withExtendedLifetime(listeners) {}
    }
}
