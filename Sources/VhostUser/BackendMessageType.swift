// SPDX-License-Identifier: Apache-2.0
//
// The requests that a back-end sends over the channel of SET_BACKEND_REQ_FD: vhost-user.rst "Back-end message types".

/// A request of the back-end to the front-end.
public enum BackendMessageType: UInt32, CaseIterable, Sendable {
    /// VHOST_USER_BACKEND_IOTLB_MSG
    case iotlbMessage = 1
    /// VHOST_USER_BACKEND_CONFIG_CHANGE_MSG
    case configChange = 2
    /// VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG
    case vringHostNotifier = 3
    /// VHOST_USER_BACKEND_VRING_CALL
    case vringCall = 4
    /// VHOST_USER_BACKEND_VRING_ERR
    case vringError = 5
    /// VHOST_USER_BACKEND_SHARED_OBJECT_ADD
    case sharedObjectAdd = 6
    /// VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE
    case sharedObjectRemove = 7
    /// VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP
    case sharedObjectLookup = 8
    /// VHOST_USER_BACKEND_SHMEM_MAP
    case sharedMemoryMap = 9
    /// VHOST_USER_BACKEND_SHMEM_UNMAP
    case sharedMemoryUnmap = 10
}
