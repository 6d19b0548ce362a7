// SPDX-License-Identifier: Apache-2.0
//
// Ownership of file descriptors as a property of the type: a descriptor is closed exactly once, when its owner goes.
// Functions that only use a descriptor take the raw number.

import Glibc

/// A file descriptor that is closed when this value is destroyed. There is no `close()`: consume or drop the value.
public struct OwnedFileDescriptor: ~Copyable, Sendable {
    /// The descriptor. Valid as long as this value lives; closing it by this number is a bug.
    public let rawValue: Int32

    /// Takes ownership of an open descriptor.
    public init(owning rawValue: Int32) {
        precondition(rawValue >= 0, "not a file descriptor")
        self.rawValue = rawValue
    }

    deinit {
        closeDescriptor(rawValue)
    }

    /// Gives the descriptor up without closing it: the caller owns the number that is returned.
    public consuming func release() -> Int32 {
        let rawValue = self.rawValue
        discard self
        return rawValue
    }

    /// A second descriptor for the open file of one that someone else owns. Throws EMFILE.
    public static func duplicate(of rawValue: Int32) throws(SystemCallError) -> OwnedFileDescriptor {
        OwnedFileDescriptor(owning: try checked("fcntl") { fcntl(rawValue, F_DUPFD_CLOEXEC, 3) })
    }

    /// A second descriptor for the same open file (F_DUPFD_CLOEXEC). Throws EMFILE.
    public borrowing func duplicate() throws(SystemCallError) -> OwnedFileDescriptor {
        let rawValue = self.rawValue
        return OwnedFileDescriptor(owning: try checked("fcntl") { fcntl(rawValue, F_DUPFD_CLOEXEC, 3) })
    }
}

/// A descriptor with shared ownership, closed with the last reference: for arrays, dictionaries and several owners.
///
/// The optimiser may end a reference after its last use, which can be the moment where the number was read: an object
/// that is not a property of something longer-lived is kept with `withExtendedLifetime`. The same holds for every class
/// of this module that gives out a descriptor or an address.
public final class SharedFileDescriptor: Sendable {
    private let owned: OwnedFileDescriptor

    /// The descriptor. Valid as long as the object lives.
    public var rawValue: Int32 { owned.rawValue }

    /// Takes the descriptor over.
    public init(_ descriptor: consuming OwnedFileDescriptor) {
        owned = descriptor
    }
}

/// Closes a descriptor. Never repeated: Linux releases the number even when close(2) reports EINTR or EIO.
func closeDescriptor(_ rawValue: Int32) {
    if let kernel = Simulation.kernel(of: rawValue) { return kernel.close(rawValue) }
    _ = close(rawValue)
}
