// SPDX-License-Identifier: Apache-2.0
//
// Mappings whose file becomes shorter. Each test has a process of its own: a handler is for all of it.

import Glibc
import Synchronization
import Testing
import VsockSystem

/// A regular file of so many pages, which whoever has its descriptor can shorten.
private func makeFile(pages: Int) throws -> OwnedFileDescriptor {
    let directory = try TemporaryDirectory()
    let file = open(directory.file("memory"), O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
    try #require(file >= 0 && ftruncate(file, off_t(pages) * off_t(sysconf(Int32(_SC_PAGESIZE)))) == 0)
    return OwnedFileDescriptor(owning: file)
}

@Suite struct MemoryFaultsTests {
    @Test(
        "a file that becomes shorter: an access finds zeros, the loss is reported, and all other memory stays as it is")
    func shortened() async {
        await #expect(processExitsWith: .success) {
            let page = sysconf(Int32(_SC_PAGESIZE))
            let file = try makeFile(pages: 4)
            let (loss, otherLoss) = (MemoryLoss(), MemoryLoss())
            let mapping = try MemoryMapping(
                descriptor: file.rawValue, offset: 100, byteCount: 4 * page - 100, loss: loss)
            let neighbour = try MemoryMapping(descriptor: file.rawValue, byteCount: page, loss: otherLoss)
            for offset in [0, 2 * page, 3 * page] {
                mapping.base.storeBytes(of: 1, toByteOffset: offset, as: UInt8.self)
            }
            try MemoryFaults.survive()
            // Again it does nothing.
            try MemoryFaults.survive()
            try #require(ftruncate(file.rawValue, off_t(page)) == 0)

            // What is left of the file is no reason for anything.
            try #require(mapping.base.load(as: UInt8.self) == 1)
            try #require(!loss.hasHappened)
            errno = ERANGE
            let gone = mapping.base.load(fromByteOffset: 2 * page, as: UInt8.self)
            try #require(errno == ERANGE)
            try #require(gone == 0 && loss.hasHappened)
            // Written to, it is memory like any other; each page that is gone is found by itself.
            mapping.base.storeBytes(of: 2, toByteOffset: 2 * page, as: UInt8.self)
            try #require(mapping.base.load(fromByteOffset: 2 * page, as: UInt8.self) == 2)
            loss.reset()
            try #require(mapping.base.load(fromByteOffset: 3 * page, as: UInt8.self) == 0)
            try #require(loss.hasHappened)

            try #require(mapping.base.load(as: UInt8.self) == 1)
            mapping.base.storeBytes(of: 3, as: UInt8.self)
            try #require(neighbour.base.load(fromByteOffset: 100, as: UInt8.self) == 3)
            try #require(!otherLoss.hasHappened)
        }
    }

    @Test("copies and threads that find the same page gone at the same time go on, again and again")
    func threads() async {
        await #expect(processExitsWith: .success) {
            let page = sysconf(Int32(_SC_PAGESIZE))
            let file = try makeFile(pages: 64)
            let losses = (0..<200).map { _ in MemoryLoss() }
            let mappings = try losses.map {
                try MemoryMapping(descriptor: file.rawValue, byteCount: 64 * page, loss: $0)
            }
            try MemoryFaults.survive()
            try #require(ftruncate(file.rawValue, 0) == 0)
            let arrived = Atomic(0)
            let count = 4
            let threads = try (0..<count).map { index in
                try WorkerThread(name: "access") {
                    let bytes = [UInt8](repeating: UInt8(index), count: 3 * page)
                    for (round, mapping) in mappings.enumerated() {
                        // All at once.
                        arrived.add(1, ordering: .relaxed)
                        while arrived.load(ordering: .relaxed) < (round + 1) * count { CurrentThread.yield() }
                        bytes.withUnsafeBytes { source in
                            guard let base = source.baseAddress else { return }
                            mapping.base.copyMemory(from: base, byteCount: source.count)
                        }
                    }
                }
            }
            for thread in threads { thread.join() }
            try #require(losses.allSatisfy { $0.hasHappened })
        }
    }

    @Test("whoever goes on regardless does not use up the mappings that a process may have")
    func many() async {
        await #expect(processExitsWith: .success) {
            let page = sysconf(Int32(_SC_PAGESIZE))
            // More than vm.max_map_count, whose default is 65,530, if each second page were one.
            let pageCount = 140_000
            let file = try makeFile(pages: pageCount)
            let loss = MemoryLoss()
            let mapping = try MemoryMapping(descriptor: file.rawValue, byteCount: pageCount * page, loss: loss)
            try MemoryFaults.survive()
            try #require(ftruncate(file.rawValue, 0) == 0)
            for index in stride(from: 0, to: pageCount, by: 2) {
                try #require(mapping.base.load(fromByteOffset: index * page, as: UInt8.self) == 0)
            }
            try #require(loss.hasHappened)
        }
    }

    // A sanitizer has a handler of its own, and reports what is wanted here.
    @Test(
        "memory that is none of the mappings, and a signal that is sent, end the process as before",
        .disabled(if: getenv("VSOCK_SANITIZED") != nil))
    func others() async {
        await #expect(processExitsWith: .signal(SIGBUS)) {
            let page = sysconf(Int32(_SC_PAGESIZE))
            let file = try makeFile(pages: 1)
            let base = mmap(nil, page, PROT_READ, MAP_SHARED, file.rawValue, 0)
            try MemoryFaults.survive()
            try #require(ftruncate(file.rawValue, 0) == 0)
            _ = base?.load(as: UInt8.self)
        }
        await #expect(processExitsWith: .signal(SIGBUS)) {
            try MemoryFaults.survive()
            try MemoryFaults.survive()
            raise(SIGBUS)
        }
    }

    @Test("what is unmapped is forgotten: a later mapping at the same place has lost nothing")
    func forgotten() async {
        await #expect(processExitsWith: .success) {
            let page = sysconf(Int32(_SC_PAGESIZE))
            try MemoryFaults.survive()
            for _ in 1...100 {
                let file = try makeFile(pages: 1)
                let loss = MemoryLoss()
                let mapping = try MemoryMapping(descriptor: file.rawValue, byteCount: page, loss: loss)
                try #require(!loss.hasHappened)
                try #require(ftruncate(file.rawValue, 0) == 0)
                try #require(mapping.base.load(as: UInt8.self) == 0)
                try #require(loss.hasHappened)
            }
        }
    }
}
