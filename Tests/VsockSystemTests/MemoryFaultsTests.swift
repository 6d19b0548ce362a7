// SPDX-License-Identifier: Apache-2.0
//
// Mappings whose file becomes shorter. Each test has a process of its own: a handler is for all of it.

import Glibc
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
    @Test("a file that becomes shorter: the access finds zeros, the mapping is lost, all others stay as they are")
    func shortened() async {
        await #expect(processExitsWith: .success) {
            let page = sysconf(Int32(_SC_PAGESIZE))
            let file = try makeFile(pages: 3)
            let mapping = try MemoryMapping(descriptor: file.rawValue, offset: 100, byteCount: 3 * page - 100)
            let neighbour = try SharedMemory(name: "neighbour", byteCount: page)
            neighbour.mapping.base.storeBytes(of: 7, as: UInt8.self)
            for offset in [0, 2 * page] { mapping.base.storeBytes(of: 1, toByteOffset: offset, as: UInt8.self) }
            try MemoryFaults.survive()
            try #require(ftruncate(file.rawValue, page) == 0)

            // What is left of the file is no reason for anything.
            try #require(mapping.base.load(as: UInt8.self) == 1)
            try #require(!mapping.isLost && MemoryFaults.count == 0)
            errno = ERANGE
            let gone = mapping.base.load(fromByteOffset: 2 * page, as: UInt8.self)
            try #require(errno == ERANGE)
            try #require(gone == 0 && mapping.isLost && MemoryFaults.count == 1)
            try #require(mapping.base.load(as: UInt8.self) == 0)
            mapping.base.storeBytes(of: 2, toByteOffset: page, as: UInt8.self)
            try #require(mapping.base.load(fromByteOffset: page, as: UInt8.self) == 2)

            try #require(!neighbour.mapping.isLost && neighbour.mapping.base.load(as: UInt8.self) == 7)
            try #require(MemoryFaults.count == 1)
        }
    }

    @Test("a write, and a copy by the C library, go on as well; each mapping is lost once, however many threads see it")
    func threads() async {
        await #expect(processExitsWith: .success) {
            let page = sysconf(Int32(_SC_PAGESIZE))
            let file = try makeFile(pages: 64)
            let mappings = try (0..<8).map { _ in
                try MemoryMapping(descriptor: file.rawValue, byteCount: 64 * page)
            }
            try MemoryFaults.survive()
            try #require(ftruncate(file.rawValue, 0) == 0)
            let threads = try (0..<4).map { index in
                try WorkerThread(name: "access") {
                    let bytes = [UInt8](repeating: UInt8(index), count: 3 * page)
                    for (round, mapping) in mappings.enumerated() {
                        bytes.withUnsafeBytes { source in
                            guard let base = source.baseAddress else { return }
                            (mapping.base + (round + index) * page).copyMemory(from: base, byteCount: source.count)
                        }
                    }
                }
            }
            for thread in threads { thread.join() }
            try #require(MemoryFaults.count == mappings.count)
            try #require(mappings.allSatisfy { $0.isLost })
        }
    }

    @Test("memory that is none of the mappings, and a signal that another process sends, end the process as before")
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
            kill(getpid(), SIGBUS)
        }
    }

    @Test("what is unmapped is forgotten: a later mapping at the same place is not lost")
    func forgotten() async {
        await #expect(processExitsWith: .success) {
            let page = sysconf(Int32(_SC_PAGESIZE))
            try MemoryFaults.survive()
            for round in 1...100 {
                let file = try makeFile(pages: 1)
                let mapping = try MemoryMapping(descriptor: file.rawValue, byteCount: page)
                try #require(!mapping.isLost)
                try #require(ftruncate(file.rawValue, 0) == 0)
                try #require(mapping.base.load(as: UInt8.self) == 0)
                try #require(mapping.isLost && MemoryFaults.count == round)
            }
        }
    }
}
