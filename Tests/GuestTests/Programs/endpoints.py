# SPDX-License-Identifier: Apache-2.0
"""Addresses and sockets shared by the test programs, which run unmodified in a guest and on its host.

    vsock:CID:PORT      connect over AF_VSOCK          vsock-listen:PORT   accept over AF_VSOCK
    uds:PATH:PORT       connect over the hybrid socket uds-listen:PATH     accept on a Unix path, such as PATH_PORT

A hybrid connection starts with "CONNECT <port>\\n" and "OK <n>\\n"; for SEQPACKET on PATH_seqpacket, one record each.
Sockets block, with SO_RCVTIMEO and SO_SNDTIMEO as deadlines: Python's own timeouts make a socket non-blocking, and a
non-blocking send of a large record over AF_VSOCK may fail after a part of it has left.
"""

import argparse
import ctypes
import errno
import json
import os
import socket
import struct
import sys
import time

SO_VM_SOCKETS_BUFFER_SIZE = 0
SO_VM_SOCKETS_BUFFER_MAX_SIZE = 2
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
RECORD_SIZE_MAX = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)


class Refused(OSError):
    """The hybrid socket was closed before it said OK."""


def arguments(description, **options):
    """A parser with what every program takes."""
    parser = argparse.ArgumentParser(description=description, **options)
    add_common(parser)
    return parser


def add_common(parser):
    parser.add_argument("address", help="vsock:CID:PORT, vsock-listen:PORT, uds:PATH:PORT or uds-listen:PATH")
    parser.add_argument("--type", choices=["stream", "seqpacket"], default="seqpacket")
    parser.add_argument("--timeout", type=float, default=60, help="seconds that any one wait may take")
    parser.add_argument("--buffer", type=int, default=1 << 20, help="bytes of socket buffer to ask for; 0: default")


def report(**fields):
    """One line of JSON on standard output."""
    # In one write, so that the lines of programs that share an output stay whole.
    os.write(1, json.dumps(fields).encode() + b"\n")


def error_name(error):
    if isinstance(error, Refused):
        return "EOF"
    return errno.errorcode.get(error.errno, str(error.errno)) if error.errno else type(error).__name__


def socket_type(options):
    return socket.SOCK_SEQPACKET if options.type == "seqpacket" else socket.SOCK_STREAM


def limit_waits(connection, seconds):
    value = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        # Python's setsockopt takes nothing but 64-bit numbers for AF_VSOCK.
        if LIBC.setsockopt(connection.fileno(), socket.SOL_SOCKET, option, value, len(value)) != 0:
            raise OSError(ctypes.get_errno(), "setsockopt")


def enlarge_buffers(connection, size):
    if not size:
        return
    if connection.family == socket.AF_UNIX:
        for forced, plain in ((SO_SNDBUFFORCE, socket.SO_SNDBUF), (SO_RCVBUFFORCE, socket.SO_RCVBUF)):
            try:
                connection.setsockopt(socket.SOL_SOCKET, forced, size)
            except PermissionError:
                connection.setsockopt(socket.SOL_SOCKET, plain, size)
    else:
        for option in (SO_VM_SOCKETS_BUFFER_MAX_SIZE, SO_VM_SOCKETS_BUFFER_SIZE):
            connection.setsockopt(socket.AF_VSOCK, option, size)


def new_socket(options, family):
    connection = socket.socket(family, socket_type(options))
    enlarge_buffers(connection, options.buffer)
    limit_waits(connection, options.timeout)
    return connection


def is_listening(address):
    return address.split(":", 1)[0].endswith("-listen")


def begin_connect(options, blocking=True):
    """A socket on its way to the address: its hybrid handshake, if any, is still to be done."""
    kind, rest = options.address.split(":", 1)
    if kind == "vsock":
        cid, port = rest.split(":")
        connection, target = new_socket(options, socket.AF_VSOCK), (int(cid), int(port))
    elif kind == "uds":
        path = rest.rsplit(":", 1)[0]
        target = path + "_seqpacket" if options.type == "seqpacket" else path
        connection = new_socket(options, socket.AF_UNIX)
    else:
        sys.exit("%s: not an address to connect to" % options.address)
    try:
        if blocking:
            connection.connect(target)
        else:
            connection.setblocking(False)
            code = connection.connect_ex(target)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
    except OSError:
        connection.close()
        raise
    return connection


def finish_connect(options, connection):
    """The hybrid handshake; raises Refused when the device closes instead of answering."""
    if not options.address.startswith("uds:"):
        return connection
    port = options.address.rsplit(":", 1)[1]
    connection.sendall(b"CONNECT %s\n" % port.encode())
    answer = b""
    while not answer.endswith(b"\n"):
        # A byte at a time on a stream: what follows the line is data.
        part = connection.recv(1 if options.type == "stream" else 64)
        if not part:
            connection.close()
            raise Refused("refused")
        answer += part
    if not answer.startswith(b"OK "):
        sys.exit("unexpected answer %r" % answer)
    return connection


def connect(options):
    return finish_connect(options, begin_connect(options))


def listen(options, backlog=16):
    """A listening socket; says so on standard output, for whoever has to start the other side."""
    kind, rest = options.address.split(":", 1)
    if kind == "vsock-listen":
        listener, target = new_socket(options, socket.AF_VSOCK), (socket.VMADDR_CID_ANY, int(rest))
    elif kind == "uds-listen":
        listener, target = new_socket(options, socket.AF_UNIX), rest
        if os.path.exists(rest):
            os.unlink(rest)
    else:
        sys.exit("%s: not an address to listen at" % options.address)
    listener.bind(target)
    listener.listen(backlog)
    report(event="listening")
    return listener


def accept(options, listener):
    connection, _ = listener.accept()
    enlarge_buffers(connection, options.buffer)
    limit_waits(connection, options.timeout)
    return connection


def open_connection(options):
    """Connects, or accepts one connection, as the address says."""
    if not is_listening(options.address):
        return connect(options)
    with listen(options) as listener:
        return accept(options, listener)


def send_all(connection, data):
    """Everything on a stream; one record on a SEQPACKET socket."""
    if connection.type == socket.SOCK_STREAM:
        connection.sendall(data)
    elif connection.send(data) != len(data):
        sys.exit("a record was sent in part")


def milliseconds_since(start):
    return round((time.monotonic() - start) * 1000, 1)
