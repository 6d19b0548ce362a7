// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import VsockSystem

@Suite struct ProcessUsageTests {
    /// Fields as in proc(5): state is the third, num_threads the 20th, rss the 24th.
    private let line =
        "7 (a) b (c) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 3 4 20 0 5 0 99 8192 11 18446744073709551615 1 1\n"

    @Test func theFieldsOfProcAreFoundBehindAnyName() throws {
        let usage = try #require(ProcessUsage(processorNanoseconds: 3, statLine: line, pageByteCount: 4096))
        #expect(usage.processorNanoseconds == 3)
        #expect(usage.threadCount == 5)
        #expect(usage.residentByteCount == 11 * 4096)
    }

    @Test func aLineThatIsCutOrNoneIsNil() {
        var end = line.startIndex
        let needed = line.range(of: " 11 ").map(\.upperBound) ?? line.endIndex
        while end < needed {
            let text = String(line[..<end])
            // Up to the last digit of the last field it is incomplete; there the field has a shorter number.
            if !text.hasSuffix(" 11"), !text.hasSuffix(" 1"), !text.hasSuffix(" 11 ") {
                #expect(ProcessUsage(processorNanoseconds: 0, statLine: text, pageByteCount: 4096) == nil, "\(text)")
            }
            end = line.index(after: end)
        }
    }

    @Test func thisProcessHasThreadsAndMemoryAndUsesItsProcessor() throws {
        let before = try ProcessUsage(of: CurrentProcess.identifier)
        let usage = try ProcessUsage(of: CurrentProcess.identifier)
        #expect(usage.processorNanoseconds > before.processorNanoseconds)
        #expect(usage.threadCount >= 1)
        #expect(usage.residentByteCount > 0)
    }

    @Test func aProcessThatIsNotThereIsAnError() {
        #expect(throws: SystemCallError.self) { try ProcessUsage(of: -1) }
    }
}

extension String {
    fileprivate func range(of text: String) -> Range<String.Index>? { ranges(of: text).first }
}
