// SPDX-License-Identifier: Apache-2.0
//
// A table of the limits of VMs, by the keys that set them.

import VsockTransport

enum LimitTableText {
    /// The table of an answer.
    static func lines(_ answer: [ControlLine]) -> [String] {
        var lines = [row(["CID", "Limit", "Value", "Current", "Reached"])]
        var cid = ""
        for line in answer {
            switch line {
            case .vm(let vm, _, _): cid = "\(vm)"
            case .limit(let entry):
                lines.append(
                    row([
                        cid, entry.name.rawValue, "\(entry.limit)", entry.current.map { "\($0)" } ?? "-",
                        "\(entry.reachedCount)",
                    ]))
            case .socket, .error, .end: break
            }
        }
        return lines
    }

    private static func row(_ cells: [String]) -> String {
        let widths = [11, 22, 14, 14, 0]
        return zip(cells, widths).map { cell, width in
            cell + String(repeating: " ", count: width == 0 ? 0 : max(1, width - cell.count))
        }.joined()
    }
}
