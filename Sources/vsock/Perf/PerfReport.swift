// SPDX-License-Identifier: Apache-2.0
//
// What a measurement has found, for people and for programs.

import Histogram
import VsockSystem
import VsockWire

/// See the top of the file. Rates are per second of the time in which messages came.
struct PerfReport {
    /// What was measured, for example "guest-to-host".
    var direction: String
    /// Over what, for example "driver:/tmp/vm3.sock".
    var transport: String
    var type: SocketType
    var messageByteCount: Int
    var connectionCount: Int
    var byteCount: UInt64
    var nanoseconds: UInt64
    /// Least of what a connection has received, by the mean.
    var slowestShare: Double?
    var roundTrips: Histogram<UInt64>?
    /// Of the device's process, during the measurement.
    var deviceProcessorNanoseconds: UInt64?
    /// Of the receiving process, of plain sockets.
    var receiverProcessorNanoseconds: UInt64?
    /// Memory that the device's process has taken with the silent connections, for each of them.
    var deviceByteCountPerIdleConnection: Int?

    /// Sends with MSG_ZEROCOPY, and those that were copied nevertheless.
    var zeroCopySendCounts: (all: Int, copied: Int)?

    /// A report of what one side has received or, when it has received nothing, sent.
    init(direction: String, transport: String, plan: PerfPlan, _ meters: [PerfMeter]) {
        if plan.usesZeroCopy, let meter = meters.first {
            zeroCopySendCounts = (meter.zeroCopySendCount, meter.copiedSendCount)
        }
        self.direction = direction
        self.transport = transport
        type = plan.type
        messageByteCount = plan.messageByteCount
        connectionCount = plan.connectionCount
        let asker = meters.first { $0.roundTrips != nil }
        let receivers = meters.filter { $0.receivedByteCount > 0 }
        let received = receivers.reduce(0) { $0 + $1.receivedByteCount }
        byteCount = received > 0 ? received : meters.reduce(0) { $0 + $1.sentByteCount }
        nanoseconds =
            (asker.map { [$0] } ?? (receivers.isEmpty ? meters : receivers)).map { $0.end - $0.start }.max() ?? 0
        roundTrips = asker?.roundTrips
        if let counts = receivers.first?.receivedByteCounts, counts.count > 1, let least = counts.min() {
            slowestShare = Double(least) * Double(counts.count) / Double(counts.reduce(0, +))
        }
    }

    private var seconds: Double { max(Double(nanoseconds), 1) / 1e9 }
    var gigabitsPerSecond: Double { Double(byteCount) * 8 / 1e9 / seconds }
    var messagesPerSecond: Double {
        Double(roundTrips?.totalCount ?? byteCount / UInt64(messageByteCount)) / seconds
    }
    private var processorTimes: [(name: String, seconds: Double, secondsPerGiB: Double)] {
        [("device", deviceProcessorNanoseconds), ("receiver", receiverProcessorNanoseconds)].compactMap { name, time in
            guard let time else { return nil }
            let seconds = Double(time) / 1e9
            return (name, seconds, seconds / (max(Double(byteCount), 1) / Double(1 << 30)))
        }
    }

    // MARK: For people

    var text: String {
        var lines = [
            "\(direction), \(type == .stream ? "SOCK_STREAM" : "SOCK_SEQPACKET"), \(messageByteCount) bytes a message, "
                + "\(connectionCount) connection\(connectionCount == 1 ? "" : "s"), over \(transport)"
        ]
        lines.append("total bytes: \(byteCount) in \(Self.decimal(seconds, 3)) s")
        if let roundTrips {
            let times = [("p50", 50.0), ("p99", 99), ("p99.9", 99.9), ("longest", 100)].map {
                "\($0) \(Self.decimal(Double(roundTrips.valueAtPercentile($1)) / 1000, 1)) us"
            }
            lines.append("round trip: \(times.joined(separator: ", "))")
            lines.append("round trips: \(Self.decimal(messagesPerSecond, 0)) a second")
        } else {
            lines.append("performance: \(Self.decimal(gigabitsPerSecond, 3)) Gbits/s")
            lines.append("messages: \(Self.decimal(messagesPerSecond, 0)) a second")
        }
        if let slowestShare { lines.append("slowest connection: \(Self.decimal(slowestShare, 2)) of the mean") }
        if let zeroCopySendCounts {
            lines.append("MSG_ZEROCOPY: \(zeroCopySendCounts.all) sends, \(zeroCopySendCounts.copied) copied")
        }
        for (name, seconds, each) in processorTimes {
            lines.append(
                "\(name): \(Self.decimal(seconds, 2)) s of processor time, \(Self.decimal(each, 3)) s a GiB")
        }
        if let count = deviceByteCountPerIdleConnection { lines.append("device: \(count) bytes an idle connection") }
        return lines.joined(separator: "\n")
    }

    /// Without Foundation there is no format for decimals.
    static func decimal(_ value: Double, _ digits: Int) -> String {
        var scale = 1.0
        for _ in 0..<digits { scale *= 10 }
        guard value.isFinite, value >= 0, value * scale < 1e18 else { return "?" }
        let number = UInt64((value * scale).rounded())
        guard digits > 0 else { return "\(number)" }
        let fraction = "\(number % UInt64(scale))"
        return "\(number / UInt64(scale))." + String(repeating: "0", count: digits - fraction.count) + fraction
    }

    // MARK: For programs

    /// One line of JSON.
    var json: String {
        var fields: [(String, String)] = [
            ("direction", Self.quoted(direction)), ("transport", Self.quoted(transport)),
            ("type", Self.quoted(type == .stream ? "stream" : "seqpacket")), ("message_bytes", "\(messageByteCount)"),
            ("connections", "\(connectionCount)"), ("bytes", "\(byteCount)"), ("seconds", Self.decimal(seconds, 6)),
            ("gigabits_per_second", Self.decimal(gigabitsPerSecond, 6)),
            ("messages_per_second", Self.decimal(messagesPerSecond, 1)),
        ]
        if let slowestShare { fields.append(("slowest_connection_share", Self.decimal(slowestShare, 4))) }
        if let zeroCopySendCounts {
            fields.append(("zerocopy_sends", "\(zeroCopySendCounts.all)"))
            fields.append(("zerocopy_sends_copied", "\(zeroCopySendCounts.copied)"))
        }
        if let roundTrips {
            for (name, percentile) in [("p50", 50.0), ("p99", 99), ("p99_9", 99.9)] {
                fields.append(("round_trip_ns_\(name)", "\(roundTrips.valueAtPercentile(percentile))"))
            }
        }
        for (name, seconds, each) in processorTimes {
            fields.append(("\(name)_cpu_seconds", Self.decimal(seconds, 3)))
            fields.append(("\(name)_cpu_seconds_per_gib", Self.decimal(each, 6)))
        }
        if let count = deviceByteCountPerIdleConnection {
            fields.append(("device_bytes_per_idle_connection", "\(count)"))
        }
        return "{" + fields.map { "\(Self.quoted($0.0)): \($0.1)" }.joined(separator: ", ") + "}"
    }

    /// A string of JSON.
    static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\u{0}"..<"\u{20}":
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
