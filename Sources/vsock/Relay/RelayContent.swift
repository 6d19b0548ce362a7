// SPDX-License-Identifier: Apache-2.0

/// How standard input and output show what a socket carries.
enum RelayContent: Equatable, Sendable {
    /// As it is.
    case bytes
    /// As records.
    case records(RecordBoundary)
}

/// Where a record ends in a byte stream.
enum RecordBoundary: Equatable, Sendable {
    /// Before this byte, which is no part of the record. Written after each record.
    case separator(UInt8)
    /// After so many bytes. Nothing is written between records.
    case size(Int)
}
