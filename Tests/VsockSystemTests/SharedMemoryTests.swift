// SPDX-License-Identifier: Apache-2.0

import CVsockLinux
import Glibc
import Testing
import VsockSystem

private var hasHugePages: Bool {
    let file = cvsock_memfd_create_huge("probe")
    if file >= 0 { close(file) }
    return file >= 0
}

@Suite struct SharedMemoryTests {
    private let page = sysconf(Int32(_SC_PAGESIZE))

    @Test("a second mapping of the descriptor sees the same bytes, after the first owner is gone too")
    func shares() throws {
        let second: MemoryMapping
        do {
            let memory = try SharedMemory(name: "guest", byteCount: 3 * page)
            #expect(memory.mapping.byteCount == 3 * page)
            #expect(memory.mapping.base.load(as: UInt64.self) == 0)
            second = try MemoryMapping(descriptor: memory.rawDescriptor, byteCount: 3 * page)
            memory.mapping.base.storeBytes(of: 0xfeed, toByteOffset: 2 * page, as: UInt64.self)
        }
        #expect(second.base.load(fromByteOffset: 2 * page, as: UInt64.self) == 0xfeed)
        second.base.storeBytes(of: 1, as: UInt8.self)
    }

    @Test("an offset need not be aligned", arguments: [0, 1, 4095, 4096, 5000])
    func offsets(offset: Int) throws {
        let memory = try SharedMemory(name: "guest", byteCount: 4 * page)
        memory.mapping.base.storeBytes(of: 0xab, toByteOffset: offset, as: UInt8.self)
        memory.mapping.base.storeBytes(of: 0xcd, toByteOffset: offset + 2 * page - 1, as: UInt8.self)
        let part = try MemoryMapping(descriptor: memory.rawDescriptor, offset: UInt64(offset), byteCount: 2 * page)
        #expect(part.base.load(as: UInt8.self) == 0xab)
        #expect(part.base.load(fromByteOffset: 2 * page - 1, as: UInt8.self) == 0xcd)
    }

    @Test(
        "a range that is not inside the file is refused",
        arguments: [
            (0, 8193), (8192, 1), (8191, 2), (UInt64.max, 1), (UInt64.max - 4095, 4096), (0, 0), (0, -1), (0, Int.max),
            (UInt64(Int.max), 1),
        ] as [(UInt64, Int)])
    func shortFile(offset: UInt64, byteCount: Int) throws {
        let memory = try SharedMemory(name: "guest", byteCount: 8192)
        let error = failure { () throws(SystemCallError) in
            _ = try MemoryMapping(descriptor: memory.rawDescriptor, offset: offset, byteCount: byteCount)
        }
        #expect(error?.errno == .invalidArgument)
        #expect(error?.description.contains("not inside the file of 8192 bytes") == true)
    }

    @Test("what is no regular file is refused")
    func wrongKind() throws {
        let notifier = try EventNotifier()
        let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
        let null = open("/dev/zero", O_RDWR | O_CLOEXEC)
        defer { close(null) }
        for descriptor in [notifier.rawDescriptor, pair.first.rawValue, null] {
            let error = failure { () throws(SystemCallError) in
                _ = try MemoryMapping(descriptor: descriptor, byteCount: 4096)
            }
            #expect(error?.errno == .noSuchDevice)
        }
        let error = failure { () throws(SystemCallError) in _ = try MemoryMapping(descriptor: -1, byteCount: 4096) }
        #expect(error?.errno == .badFileDescriptor)
    }

    @Test("a descriptor that is open for reading only maps for reading only")
    func readOnly() throws {
        let directory = try TemporaryDirectory()
        let writer = open(directory.file("f"), O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
        defer { close(writer) }
        #expect(write("content", to: writer) == .count(7))
        let reader = open(directory.file("f"), O_RDONLY | O_CLOEXEC)
        defer { close(reader) }
        let error = failure { () throws(SystemCallError) in _ = try MemoryMapping(descriptor: reader, byteCount: 7) }
        #expect(error?.description == "mmap: Permission denied")
        let mapping = try MemoryMapping(descriptor: reader, byteCount: 7, isWritable: false)
        #expect(mapping.base.load(as: UInt8.self) == UInt8(ascii: "c"))
    }

    @Test("the size of our own memory is sealed: no peer can shorten it under us")
    func sealed() throws {
        let memory = try SharedMemory(name: "guest", byteCount: 8192)
        #expect(ftruncate(memory.rawDescriptor, 4096) == -1)
        #expect(ftruncate(memory.rawDescriptor, 16384) == -1)
        #expect(memory.mapping.base.load(fromByteOffset: 8184, as: UInt64.self) == 0)
    }

    @Test("sizes that make no sense are refused", arguments: [0, -1, Int.min])
    func sizes(byteCount: Int) {
        let error = failure { () throws(SystemCallError) in _ = try SharedMemory(name: "guest", byteCount: byteCount) }
        #expect(error?.errno == .invalidArgument)
    }

    @Test(
        "a mapping of huge pages begins and ends at huge pages, wherever the offset is",
        .enabled(if: hasHugePages, "this kernel has no huge pages"))
    func hugePages() throws {
        let file = cvsock_memfd_create_huge("guest")
        try #require(file >= 0)
        defer { close(file) }
        var status = statfs()
        try #require(fstatfs(file, &status) == 0)
        let hugePage = Int(status.f_bsize)
        try #require(ftruncate(file, 2 * hugePage) == 0)
        // The machine need not have any huge page free: what is mapped is not touched.
        let mapping = try MemoryMapping(descriptor: file, offset: UInt64(page), byteCount: hugePage)
        #expect(UInt(bitPattern: mapping.base) % UInt(hugePage) == UInt(page))
    }

    @Test("a mapping is gone when its last reference goes")
    func unmaps() throws {
        let name = "unmaps-\(getpid())"
        do {
            var memory: SharedMemory? = try SharedMemory(name: name, byteCount: page)
            let mapping = try #require(memory?.mapping)
            memory = nil
            #expect(try mappedFiles().contains(name))
            withExtendedLifetime(mapping) {}
        }
        #expect(try !mappedFiles().contains(name))
    }

    private func mappedFiles() throws -> String {
        let file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC)
        try #require(file >= 0)
        defer { close(file) }
        return try readAll(from: file)
    }
}
