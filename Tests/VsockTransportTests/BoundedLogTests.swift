// SPDX-License-Identifier: Apache-2.0

import Logging
import Synchronization
import Testing

@testable import VsockTransport

@Suite("A log that says only so much in a second")
struct BoundedLogTests {
    /// Seconds that the test decides on.
    private final class Clock: Sendable {
        let seconds = Atomic(0)
        func now() -> UInt64 { UInt64(seconds.load(ordering: .relaxed)) * 1_000_000_000 }
    }

    private let recorder = LogRecorder()
    private let clock = Clock()

    private func makeLog() -> Logger {
        var log = recorder.logger
        log.handler = BoundedLog(log.handler) { [clock] in clock.now() }
        return log
    }

    @Test("what is beyond the bound is left out, and the next second's first line says how much that was")
    func bound() {
        let log = makeLog()
        let limit = BoundedLog.linesPerSecond
        for index in 0..<(limit + 30) { log.warning("\(index)") }
        #expect(recorder.lines == (0..<limit).map { "warning: \($0) " })
        clock.seconds.store(1, ordering: .relaxed)
        log.notice("again", metadata: ["key": "value"])
        log.info("and again")
        #expect(recorder.lines.suffix(2) == ["notice: again key=value left-out=30", "info: and again "])
    }

    @Test("copies of a log share its bound, whatever their metadata")
    func copies() {
        let log = makeLog()
        var copy = log
        copy[metadataKey: "copy"] = "1"
        for _ in 0..<BoundedLog.linesPerSecond { log.notice("first") }
        copy.warning("second")
        #expect(!recorder.contains("second"))
    }

    @Test("errors are not left out for warnings, and have the same bound")
    func errors() {
        let log = makeLog()
        for index in 0..<100 { log.warning("\(index)") }
        for index in 0..<100 { log.error("error \(index)") }
        #expect(recorder.lines.count { $0.hasPrefix("error: ") } == BoundedLog.linesPerSecond)
    }

    @Test("what only who debugs has asked for has no bound, and does not count")
    func debug() {
        let log = makeLog()
        for _ in 0..<1000 { log.debug("packet") }
        log.warning("warning")
        #expect(recorder.lines.count == 1001)
    }
}
