// SPDX-License-Identifier: Apache-2.0
//
// Golden bytes are written as hexadecimal digits, with spaces where the fields end.

/// Bytes written as hexadecimal digits; characters that are not digits separate fields and mean nothing.
public func hexBytes(_ text: String) -> [UInt8] {
    let digits = text.compactMap(\.hexDigitValue)
    precondition(digits.count % 2 == 0, "half a byte in \(text)")
    return stride(from: 0, to: digits.count, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
}

/// Hexadecimal digits of bytes.
public func hexText(_ bytes: [UInt8]) -> String {
    var text = ""
    for byte in bytes {
        text += String(byte >> 4, radix: 16)
        text += String(byte & 15, radix: 16)
    }
    return text
}
