# SPDX-License-Identifier: Apache-2.0
"""Listens on a Unix path and sends to whoever connects, without end: endless.py PATH stream|seqpacket"""

import contextlib
import os
import socket
import sys

path, kind = sys.argv[1:]
with contextlib.suppress(FileNotFoundError):
    os.unlink(path)
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == "stream" else socket.SOCK_SEQPACKET) as listener:
    listener.bind(path)
    listener.listen()
    print("listening", flush=True)
    connection, _ = listener.accept()
    sent, announced = 0, False
    while True:
        sent += connection.send(bytes(16384))
        if not announced and sent >= 1 << 20:
            announced = True
            print("sending", flush=True)
