// SPDX-License-Identifier: Apache-2.0
//
// Descriptors in messages, as net/core/scm.c has them, and the calls that take any descriptor. A message holds what was
// passed open until it is read, or the socket that it lies in is closed.

import VsockSystem

/// A descriptor on its way.
enum PassedFile {
    /// What it refers to is the model's.
    case object(ModelKernel.Object)
    /// A second descriptor of Linux's for the same file.
    case linux(Int32)
}

extension ModelKernel {
    func send(_ descriptor: Int32, from buffer: UnsafeRawBufferPointer, descriptors: [Int32]) -> IOResult {
        guard let socket = socket(descriptor) else { return .failed(.badFileDescriptor) }
        var files: [PassedFile] = []
        for descriptor in descriptors {
            guard let file = hold(descriptor) else {
                release(files)
                return .failed(.badFileDescriptor)
            }
            files.append(file)
        }
        let result = send(socket, Array(buffer), files: files, isFaulty: true)
        // They are tied to the first byte.
        if case .count(1...) = result { return result }
        release(files)
        return result
    }

    func receive(
        _ descriptor: Int32, into buffer: UnsafeMutableRawBufferPointer, descriptors: inout DescriptorList,
        flags: MessageFlags
    ) -> MessageResult {
        var files: [PassedFile] = []
        let result = receive(descriptor, into: [buffer], flags: flags, files: &files)
        guard !files.isEmpty, case .message(let count, var flags) = result else { return result }
        for file in files {
            let isInstalled = !faults.exhaustsDescriptors && descriptors.append(install(file))
            if !isInstalled { flags.insert(.controlTruncated) }
        }
        return .message(count: count, flags: flags)
    }

    /// Closes what nobody will receive.
    func release(_ files: [PassedFile]) {
        for file in files {
            switch file {
            case .object(let object): drop(object)
            case .linux(let rawValue): _ = OwnedFileDescriptor(owning: rawValue)
            }
        }
    }

    private func hold(_ descriptor: Int32) -> PassedFile? {
        guard descriptor >= Simulation.firstDescriptor else {
            guard let second = try? OwnedFileDescriptor.duplicate(of: descriptor) else { return nil }
            return .linux(second.release())
        }
        guard let object = object(descriptor) else { return nil }
        object.polled.holderCount += 1
        return .object(object)
    }

    private func install(_ file: PassedFile) -> OwnedFileDescriptor {
        switch file {
        case .object(let object):
            let descriptor = open(object)
            drop(object)
            return OwnedFileDescriptor(owning: descriptor)
        case .linux(let rawValue):
            return OwnedFileDescriptor(owning: rawValue)
        }
    }

    // MARK: Any descriptor

    func read(_ descriptor: Int32, into buffer: UnsafeMutableRawBufferPointer) -> IOResult {
        switch object(descriptor) {
        case .socket?:
            switch receive(descriptor, into: [buffer], flags: []) {
            case .message(let count, _): return .count(count)
            case .wouldBlock: return .wouldBlock
            case .failed(let errno): return .failed(errno)
            }
        case .notifier(let notifier)?:
            guard notifier.isSignalled else { return .wouldBlock }
            notifier.isSignalled = false
            buffer.storeBytes(of: 1, as: UInt64.self)
            return .count(MemoryLayout<UInt64>.size)
        case .listener?, .poller?: return .failed(.invalidArgument)
        case nil: return .failed(.badFileDescriptor)
        }
    }

    func write(_ descriptor: Int32, from buffer: UnsafeRawBufferPointer) -> IOResult {
        switch object(descriptor) {
        case .socket?:
            return send(descriptor, from: [buffer])
        case .notifier(let notifier)?:
            if !notifier.isSignalled { activity += 1 }
            notifier.isSignalled = true
            notifier.wake(.readable)
            return .count(buffer.count)
        case .listener?: return .failed(.notConnected)
        case .poller?: return .failed(.invalidArgument)
        case nil: return .failed(.badFileDescriptor)
        }
    }
}
