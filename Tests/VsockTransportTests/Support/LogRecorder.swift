// SPDX-License-Identifier: Apache-2.0
//
// Keeps what a device logs, so that a test can ask for the reason that a user would see.

import Logging
import Synchronization

/// Log lines from `debug` on, in order. Safe to use from every thread.
final class LogRecorder: Sendable {
    private let recorded = Mutex<[String]>([])

    /// All lines so far, each with its level and metadata.
    var lines: [String] { recorded.withLock { $0 } }

    /// Whether a line contains all of `texts`.
    func contains(_ texts: String...) -> Bool {
        lines.contains { line in texts.allSatisfy { line.contains($0) } }
    }

    /// A logger that writes here.
    var logger: Logger {
        Logger(label: "test", factory: { _ in Handler(recorder: self) })
    }

    fileprivate func append(_ line: String) { recorded.withLock { $0.append(line) } }
}

private struct Handler: LogHandler {
    let recorder: LogRecorder
    var logLevel = Logger.Level.debug
    var metadata: Logger.Metadata = [:]

    init(recorder: LogRecorder) { self.recorder = recorder }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let details = (event.metadata ?? [:]).map { "\($0)=\($1)" }.sorted().joined(separator: " ")
        recorder.append("\(event.level): \(event.message) \(details)")
    }
}
