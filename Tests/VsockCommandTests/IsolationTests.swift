// SPDX-License-Identifier: Apache-2.0
//
// One hostile VM among three of a `vsock serve`: the others lose no byte, and the process neither ends nor grows.
//
// VSOCK_ATTACK_SECONDS is how long each attack goes on; `make isolation` takes some seconds and prints what share of
// their throughput the others keep: of what they have beside a VM that computes and leaves its device alone, for a
// guest's own processor time is not the device's to limit, and of what they have beside an idle one. VSOCK_THREADS is the
// number of the daemon's threads: with two of them, the second of the others shares one with the hostile VM. VSOCK_LOAD
// is what the others send and receive, in MiB a second each way: as much as they can without it.

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
    /// Bytes a second, each way.
    private static let load = getenv("VSOCK_LOAD").flatMap { UInt16(String(cString: $0)) }.flatMap {
        $0 > 0 ? Int($0) << 20 : nil
    }
    /// How long an attack, or what it is compared with, goes on at a time: they take turns.
    private static let sliceNanoseconds: UInt64 = seconds == nil ? 200_000_000 : 1_000_000_000
    /// What a daemon may grow by under all attacks: buffers that are kept for reuse, and what the allocator keeps.
    private static let growthLimit = 32 << 20

    /// Where the others are: the hostile VM is the first of the daemon, and VM number n is on thread n modulo their number.
    private static let placesOfOthers: [String] = {
        let threads = getenv("VSOCK_THREADS").flatMap { Int(String(cString: $0)) } ?? ResourceLimits.processorCount
        return (1...2).map { $0 % max(1, threads) == 0 ? "same thread" : "other thread" }
    }()

    /// What the third VM does while the two others are looked at.
    private enum Neighbour: CaseIterable {
        /// Nothing.
        case idle
        /// It has a processor to do, and nothing for its device.
        case computing
        case attacking
    }

    private static func compute(until end: UInt64) { while MonotonicClock.now() < end {} }

    @Test("whatever a VM does, the others lose no byte, and the daemon neither ends nor grows")
    func attacks() throws {
        let directory = try TemporaryDirectory()
        // In the short time of a test an attack is not to wait.
        let pace = Self.seconds == nil ? ",max-monitor-milliseconds=1000" : ""
        let vms = [3, 4, 5].flatMap { cid in
            ["--vm", "guest-cid=\(cid),socket=\(directory.path)/s\(cid),uds-path=\(directory.path)/v\(cid)\(pace)"]
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
            try GuestTraffic(
                path: "\(directory.path)/s\(cid)", hybridPath: "\(directory.path)/v\(cid)", bytesPerSecond: Self.load)
        }
        func received() -> [Int] { others.map(\.receivedByteCount) }
        /// Bytes a second of the others while `body` runs.
        func rates(_ body: () throws -> Void) rethrows -> [Double] {
            let (before, start) = (received(), MonotonicClock.now())
            try body()
            let seconds = Double(MonotonicClock.now() - start) / 1e9
            return zip(received(), before).map { Double($0 - $1) / seconds }
        }
        let pause = try Pause()

        try poll { received().allSatisfy { $0 > 4 << 20 } }
        // Once each, so that what is kept for reuse is there.
        var random = SeededGenerator(seed: 1)
        for attack in Self.attacks {
            attack.run(target, until: MonotonicClock.now() + 50_000_000, random: &random)
        }
        let before = try DaemonFootprint(of: serve.processID)
        // Measured without an attack first: what two rows can differ by without a reason.
        let control: [Attack?] = Self.seconds == nil ? [] : [nil]
        for (seed, attack) in (control + Self.attacks).enumerated() {
            let name = attack?.rawValue ?? "none, computing"
            var random = SeededGenerator(seed: UInt64(seed))
            var totals = Dictionary(uniqueKeysWithValues: Neighbour.allCases.map { ($0, [0.0, 0.0]) })
            let turnCount = Self.seconds.map { max(1, Int($0)) } ?? 1
            for _ in 0..<turnCount {
                for neighbour in Self.seconds == nil ? [.attacking] : Neighbour.allCases {
                    let begin = MonotonicClock.now()
                    let end = begin + Self.sliceNanoseconds
                    let rates = try rates {
                        switch neighbour {
                        case .idle: try pause.end(at: end)
                        case .computing: Self.compute(until: end)
                        case .attacking:
                            guard let attack else { return Self.compute(until: end) }
                            attack.run(target, until: end, random: &random)
                        }
                    }
                    try #require(MonotonicClock.now() - begin < testDeadline, "after \(name) no monitor is served")
                    totals[neighbour] = zip(totals[neighbour] ?? [], rates).map { $0 + $1 }
                }
            }
            let isAlive = kill(serve.processID, 0) == 0
            #expect(isAlive, "\(name), seed \(seed)")
            let start = received()
            try poll { zip(received(), start).allSatisfy { $0 > $1 } }
            guard Self.seconds != nil else { continue }
            func shares(of neighbour: Neighbour) -> String {
                zip(zip(totals[.attacking] ?? [], totals[neighbour] ?? []), Self.placesOfOthers)
                    .map { "\($1) \(Int(100 * $0.0 / max(1, $0.1))) %" }.joined(separator: ", ")
            }
            let rates = (totals[.idle] ?? []).map { "\((Int($0) / turnCount) >> 20)" }.joined(separator: " and ")
            print("\(name): \(shares(of: .computing)); beside an idle VM: \(shares(of: .idle)) of \(rates) MiB/s")
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
