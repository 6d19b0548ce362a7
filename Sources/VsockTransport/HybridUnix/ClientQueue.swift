// SPDX-License-Identifier: Apache-2.0
//
// Clients in the order in which they came, any of which may leave at any time: a list through the clients themselves.

/// See the top of the file. A client is in one queue at most.
struct ClientQueue: ~Copyable {
    private(set) var first: HybridClient?
    private var last: HybridClient?
    private(set) var count = 0

    // One by one: a chain of owners would end recursively.
    deinit {
        var next = first
        while let client = next {
            next = client.newer
            client.newer = nil
        }
    }

    /// Adds the newest.
    mutating func append(_ client: HybridClient) {
        client.older = last
        last?.newer = client
        last = client
        if first == nil { first = client }
        count += 1
    }

    /// Takes out one that is in the queue.
    mutating func remove(_ client: HybridClient) {
        let (older, newer) = (client.older, client.newer)
        if let older { older.newer = newer } else { first = newer }
        if let newer { newer.older = older } else { last = older }
        client.older = nil
        client.newer = nil
        count -= 1
    }
}
