// SPDX-License-Identifier: Apache-2.0
//
// The names from lower layers that programs use, so that `import Vsock` is enough, also for programs that are compiled
// with MemberImportVisibility: a type alias would not show them the members.

@_exported import enum VsockCore.SocketError
@_exported import class VsockTransport.PacketCapture
@_exported import class VsockTransport.PacketTapGroup
@_exported import class VsockTransport.PacketTraceLog
@_exported import enum VsockTransport.SeqpacketMode
@_exported import enum VsockTransport.ShutdownDirection
@_exported import enum VsockTransport.SocketOption
@_exported import protocol VsockTransport.PacketTap
@_exported import struct VsockTransport.ReceiveOptions
@_exported import struct VsockTransport.ReceiveResult
@_exported import struct VsockTransport.SendOptions
@_exported import struct VsockTransport.SocketReadiness
@_exported import struct VsockTransport.SocketSettings
@_exported import struct VsockWire.SocketType
@_exported import struct VsockWire.VsockAddress
