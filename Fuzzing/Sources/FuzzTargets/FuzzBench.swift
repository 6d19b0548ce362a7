// SPDX-License-Identifier: Apache-2.0
//
// What the targets use again for the next input, because making it takes longer than the input does. Each piece is as
// new when an input asks for it, so that what an input does follows from that input alone.
//
// Inputs that open descriptors do so on Linux, or on the model of it: that takes a fraction of the time, and counts what
// is open.

@testable import VirtioQueue
@testable import VsockSimulation
@testable import VsockSystem
@testable import VsockTransport

/// One for each thread that runs inputs.
package final class FuzzBench {
    /// As large as the largest region that a request of ``VhostUserFuzz`` usually names.
    static let sharedByteCount = 32 << 12

    private var memory: FuzzMemory?
    private var record: FuzzRecord?
    private var loop: EventLoop?
    private var directory: TemporaryDirectory?
    private var shared: SharedMemory?
    private var eventNotifier: EventNotifier?
    private let kernel: ModelKernel?

    /// The kernel that sockets, eventfds and pollers are of.
    package enum Kernel: CaseIterable, Sendable { case linux, model }

    package init(_ kernel: Kernel) {
        // A descriptor that is to be signalled may be one whose reader is gone.
        SignalReceiver.ignoreBrokenPipe()
        self.kernel = kernel == .model ? ModelKernel(seed: 0, maximumSendBuffer: 212_992) : nil
    }

    deinit {
        // What is watched and who watches it hold each other until they are closed, by the kernel that they are of.
        Simulation.$kernel.withValue(kernel) {
            loop = nil
            eventNotifier = nil
        }
    }

    /// Runs what opens descriptors, and on the model holds it to closing them.
    func withKernel(_ body: () throws(FuzzFinding) -> Void) throws(FuzzFinding) {
        guard let kernel else { return try body() }
        var finding: FuzzFinding?
        Simulation.$kernel.withValue(kernel) {
            do throws(FuzzFinding) {
                try makeDescriptors()
                let openCount = kernel.descriptorCount
                try body()
                let count = kernel.descriptorCount
                try expect(count == openCount, "\(openCount) descriptors were open before, \(count) afterwards")
            } catch {
                finding = error
            }
        }
        if let finding { throw finding }
    }

    /// Those that are used again.
    private func makeDescriptors() throws(FuzzFinding) {
        do throws(SystemCallError) {
            _ = try (restingLoop(), notifier())
        } catch {
            throw FuzzFinding("no descriptors: \(error)")
        }
    }

    private static func keep<Value, Failure>(
        _ place: inout Value?, _ make: () throws(Failure) -> Value
    ) throws(Failure) -> Value {
        if let value = place { return value }
        let value = try make()
        place = value
        return value
    }

    /// Guest memory, zeroed.
    func cleanMemory() throws(FuzzFinding) -> FuzzMemory {
        let memory = try Self.keep(&memory, FuzzMemory.init)
        memory.clear()
        return memory
    }

    /// Memory for the record of what is in flight on the queues of a device, zeroed: always of the same size.
    func cleanRecord(queueSize: Int) -> UnsafeMutableRawBufferPointer {
        let record = Self.keep(&record) {
            FuzzRecord(byteCount: VsockDevice.QueueIndex.count * InflightRegion.byteCount(queueSize: queueSize))
        }
        record.block.initializeMemory(as: UInt8.self, repeating: 0)
        return record.block
    }

    /// A loop that watches nothing.
    func restingLoop() throws(SystemCallError) -> EventLoop {
        try Self.keep(&loop) { () throws(SystemCallError) in try EventLoop(mailbox: LoopMailbox()) }
    }

    /// A path for the sockets of a device, where there are none. They remove their files.
    func socketPath() throws(SystemCallError) -> String {
        guard kernel == nil else { return "/run/v" }
        let directory = try Self.keep(&directory) { () throws(SystemCallError) in
            try TemporaryDirectory(prefix: "fuzz")
        }
        return "\(directory.path)/v"
    }

    /// Memory with a descriptor, as the last input left it.
    func sharedMemory() throws(SystemCallError) -> SharedMemory {
        try Self.keep(&shared) { () throws(SystemCallError) in
            try SharedMemory(name: "fuzz", byteCount: Self.sharedByteCount)
        }
    }

    static func cleared(_ shared: SharedMemory) -> SharedMemory {
        shared.mapping.base.initializeMemory(as: UInt8.self, repeating: 0, count: sharedByteCount)
        return shared
    }

    /// An eventfd, as the last input left it.
    func notifier() throws(SystemCallError) -> EventNotifier { try Self.keep(&eventNotifier, EventNotifier.init) }

    static func silenced(_ notifier: EventNotifier) -> EventNotifier {
        notifier.drain()
        return notifier
    }
}

/// A heap block of exactly its size, so that AddressSanitizer sees the first byte outside.
private final class FuzzRecord {
    let block: UnsafeMutableRawBufferPointer

    init(byteCount: Int) { block = .allocate(byteCount: byteCount, alignment: 64) }

    deinit { block.deallocate() }
}
