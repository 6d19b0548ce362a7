# SPDX-License-Identifier: Apache-2.0
"""Runs the kernel's vsock_test with its control connection on standard input and output.

kernel_test.py VSOCK_TEST client|server OPTION...

So a guest needs no network for it. What vsock_test says goes to standard error. Exits with its status.
"""

import os
import socket
import subprocess
import sys
import threading


def relay(read, write, end):
    """Copies until the end, which is passed on."""
    try:
        while data := read():
            write(data)
        end()
    except OSError:
        pass  # The other direction knows.


def main():
    program, mode, *options = sys.argv[1:]
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    if mode == "server":
        listener.close()  # The port is the program's.
    command = [program, "--mode", mode, "--control-host", "127.0.0.1", "--control-port", str(port), *options]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    said = child.stdout.fileno()
    if mode == "client":
        control, _ = listener.accept()
    else:
        while b"listening" not in (data := os.read(said, 65536)):
            if not data:
                sys.exit("vsock_test does not listen")
        control = socket.create_connection(("127.0.0.1", port))
    down = threading.Thread(
        target=relay, args=(lambda: control.recv(65536), lambda data: os.write(1, data), lambda: None)
    )
    up = threading.Thread(
        target=relay,
        args=(lambda: os.read(0, 65536), control.sendall, lambda: control.shutdown(socket.SHUT_WR)),
        daemon=True,
    )
    down.start()
    up.start()
    relay(lambda: os.read(said, 65536), lambda data: os.write(2, data), lambda: None)
    status = child.wait()
    down.join()
    sys.exit(status)


main()
