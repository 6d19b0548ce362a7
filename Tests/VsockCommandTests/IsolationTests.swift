// SPDX-License-Identifier: Apache-2.0
//
// One hostile VM among three of a `vsock serve`: the others lose no byte, and the process neither ends nor grows.
//
// VSOCK_ATTACK_SECONDS is how long each attack goes on; `make isolation` takes some seconds and prints what share of
// their throughput the others keep.

import Glibc
import Testing
import VsockSystem
import VsockTestSupport

@Suite struct IsolationTests {
    private static let seconds = getenv("VSOCK_ATTACK_SECONDS").flatMap { Double(String(cString: $0)) }
    private static var attackNanoseconds: UInt64 { UInt64((seconds ?? 0.2) * 1e9) }
    /// What a daemon may grow by under all attacks: buffers that are kept for reuse, and what the allocator keeps.
    private static let growthLimit = 32 << 20

    @Test("whatever a VM does, the others lose no byte, and the daemon neither ends nor grows")
    func attacks() throws {
        let directory = try TemporaryDirectory()
        let vms = [3, 4, 5].flatMap { cid in
            ["--vm", "guest-cid=\(cid),socket=\(directory.path)/s\(cid),uds-path=\(directory.path)/v\(cid)"]
        }
        let serve = try RunningCommand(["serve", "--log-level", "critical"] + vms)
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
        func measure() {
            _ = try? DescriptorIO.waitUntilReady(
                never.rawDescriptor, for: .readable, timeoutNanoseconds: Self.attackNanoseconds)
        }

        try poll { received().allSatisfy { $0 > 4 << 20 } }
        // Once each, so that what is kept for reuse is there.
        var random = SeededGenerator(seed: 1)
        for attack in Attack.allCases {
            attack.run(target, until: MonotonicClock.now() + 50_000_000, random: &random)
        }
        let before = try DaemonFootprint(of: serve.processID)
        for (seed, attack) in Attack.allCases.enumerated() {
            var random = SeededGenerator(seed: UInt64(seed))
            let alone = Self.seconds == nil ? [] : rates(measure)
            let begin = MonotonicClock.now()
            let attacked = rates {
                attack.run(target, until: MonotonicClock.now() + Self.attackNanoseconds, random: &random)
            }
            try #require(MonotonicClock.now() - begin < testDeadline, "after \(attack) no monitor is served")
            let isAlive = kill(serve.processID, 0) == 0
            #expect(isAlive, "\(attack), seed \(seed)")
            let start = received()
            try poll { zip(received(), start).allSatisfy { $0 > $1 } }
            guard Self.seconds != nil else { continue }
            let shares = zip(attacked, alone).map { Int(100 * $0 / max(1, $1)) }
            print("\(attack.rawValue): \(shares.map { "\($0) %" }.joined(separator: ", "))")
        }
        for traffic in others {
            let isWhole = try traffic.finish()
            #expect(isWhole)
        }
        // The last session of the attacker, and its connections, end by themselves.
        try poll { try DaemonFootprint(of: serve.processID).descriptorCount <= before.descriptorCount }
        let after = try DaemonFootprint(of: serve.processID)
        #expect(after.anonymousByteCount <= before.anonymousByteCount + Self.growthLimit)
        if Self.seconds != nil { print("before: \(before); after: \(after)") }
        try serve.kill(SIGTERM)
        #expect(try serve.finish().status == 0)
        withExtendedLifetime(listeners) {}
    }
}
