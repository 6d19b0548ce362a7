// SPDX-License-Identifier: Apache-2.0
//
// Messages that carry descriptors: SCM_RIGHTS of unix(7), as vhost-user uses it (vhost-user.rst, "Communication").
// Received descriptors close on exec and are owned from the moment the kernel has installed them.

import CVsockLinux
import Glibc

extension DescriptorIO {
    /// recvmsg(2) into one buffer. Descriptors that came along replace the content of `descriptors`. If the peer sent
    /// more than the list holds, the kernel drops the rest and the flags have ``MessageFlags/controlTruncated``: refuse
    /// the message then. On a stream, one call never crosses into the bytes of the next message with descriptors.
    public static func receiveMessage(
        _ descriptor: Int32, into buffer: UnsafeMutableRawBufferPointer, descriptors: inout DescriptorList,
        flags: MessageFlags = []
    ) -> MessageResult {
        descriptors.removeAll()
        if let kernel = Simulation.kernel(of: descriptor) {
            return kernel.receive(descriptor, into: buffer, descriptors: &descriptors, flags: flags)
        }
        let flags = flags.union(MessageFlags(rawValue: Int32(MSG_CMSG_CLOEXEC)))
        let space = cvsock_cmsg_space(DescriptorList.capacity * MemoryLayout<Int32>.size)
        return withUnsafeTemporaryAllocation(byteCount: space, alignment: MemoryLayout<cmsghdr>.alignment) { control in
            var segment = iovec(iov_base: buffer.baseAddress, iov_len: buffer.count)
            return withUnsafeMutablePointer(to: &segment) { segment in
                var header = msghdr()
                header.msg_iov = segment
                header.msg_iovlen = 1
                header.msg_control = control.baseAddress
                header.msg_controllen = .init(control.count)
                let result = receive(descriptor, &header, flags)
                if case .message = result { takeDescriptors(from: &header, into: &descriptors) }
                return result
            }
        }
    }

    /// sendmsg(2) of `bytes` with descriptors, which stay the caller's. The kernel ties them to the first byte: there
    /// must be one, and after a short count the rest is sent without them. At most ``DescriptorList/capacity``, else
    /// EINVAL.
    public static func sendMessage(
        _ descriptor: Int32, from bytes: UnsafeRawBufferPointer, descriptors: [Int32], flags: MessageFlags = []
    ) -> IOResult {
        guard descriptors.count <= DescriptorList.capacity else { return .failed(.invalidArgument) }
        if let kernel = Simulation.kernel(of: descriptor) {
            return kernel.send(descriptor, from: bytes, descriptors: descriptors)
        }
        var segment = iovec(iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
        return withUnsafeMutablePointer(to: &segment) { segment in
            var header = msghdr()
            header.msg_iov = segment
            header.msg_iovlen = 1
            guard !descriptors.isEmpty else { return send(descriptor, &header, flags) }
            let byteCount = descriptors.count * MemoryLayout<Int32>.stride
            let space = cvsock_cmsg_space(byteCount)
            let alignment = MemoryLayout<cmsghdr>.alignment
            return withUnsafeTemporaryAllocation(byteCount: space, alignment: alignment) { control in
                control.initializeMemory(as: UInt8.self, repeating: 0)
                header.msg_control = control.baseAddress
                header.msg_controllen = .init(control.count)
                guard let rights = cvsock_cmsg_firsthdr(&header) else { return .failed(.invalidArgument) }
                rights.pointee.cmsg_level = SOL_SOCKET
                rights.pointee.cmsg_type = Int32(SCM_RIGHTS)
                rights.pointee.cmsg_len = .init(cvsock_cmsg_len(byteCount))
                descriptors.withUnsafeBytes { source in
                    guard let base = source.baseAddress else { return }
                    cvsock_cmsg_data(rights).copyMemory(from: base, byteCount: byteCount)
                }
                return send(descriptor, &header, flags)
            }
        }
    }

    private static func takeDescriptors(from header: inout msghdr, into descriptors: inout DescriptorList) {
        var next = cvsock_cmsg_firsthdr(&header)
        while let control = next {
            if control.pointee.cmsg_level == SOL_SOCKET, control.pointee.cmsg_type == Int32(SCM_RIGHTS) {
                let byteCount = Int(control.pointee.cmsg_len) - cvsock_cmsg_len(0)
                let data = UnsafeRawPointer(cvsock_cmsg_data(control))
                for offset in stride(from: 0, to: byteCount, by: MemoryLayout<Int32>.stride) {
                    let rawValue = data.loadUnaligned(fromByteOffset: offset, as: Int32.self)
                    guard rawValue >= 0 else { continue }
                    descriptors.append(OwnedFileDescriptor(owning: rawValue))
                }
            }
            next = cvsock_cmsg_nxthdr(&header, control)
        }
    }
}
