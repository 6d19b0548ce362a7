// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import VsockTransport

@Suite("Consumption of records under way between guests")
struct RecordConsumptionTests {
    @Test("what leaves of a record is taken against what was consumed of that record, not of a later one")
    func perRecord() {
        var records = RecordConsumption()
        records.append(byteCount: 100, consumedByteCount: 0)
        records.append(byteCount: 50, consumedByteCount: 30)
        let early = (records.removeFirst(60), records.removeFirst(60), records.removeFirst(30))
        #expect(early == (0, 20, 10))
    }

    @Test("what is of no record was not consumed before")
    func beyond() {
        var records = RecordConsumption()
        records.append(byteCount: 0, consumedByteCount: 0)
        records.append(byteCount: 10, consumedByteCount: 10)
        let early = (records.removeFirst(15), records.removeFirst(1))
        #expect(early == (10, 0))
    }
}
