# SPDX-License-Identifier: Apache-2.0
"""A Linux guest of `vsock guest`, booted once for many commands."""
import os
import select
import subprocess
import time


class NoGuest(Exception):
    """The guest does not boot, or does not answer."""


class KernelGuest:
    """A guest with a shell that runs one command after the other."""

    BOOT_SECONDS = 120
    # Longer than any table takes: a guest does not outlive who booted it by more.
    LIFETIME_SECONDS = 3600
    STOP_SECONDS = 30

    def __init__(self, vsock, kernel, socket):
        self.process = subprocess.Popen(
            [vsock, "guest", "--kernel", kernel, "--socket", str(socket), "--timeout", str(self.LIFETIME_SECONDS), "--",
             "/bin/sh"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.received = b""
        try:
            self.run("true", self.BOOT_SECONDS)
        except NoGuest:
            self.stop()
            raise

    def start(self, command):
        """Starts a command; finish() gives what became of it."""
        try:
            self.process.stdin.write(f"{command} 2>&1 </dev/null; echo \"=$?\"\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise NoGuest from None

    def finish(self, seconds):
        """The status of the command that was started, and what it has said."""
        deadline = time.monotonic() + seconds
        said = []
        while not (line := self.line(deadline)).startswith("="):
            said.append(line)
        return int(line[1:]), "\n".join(said)

    def run(self, command, seconds):
        self.start(command)
        return self.finish(seconds)

    def line(self, deadline):
        while b"\n" not in self.received:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not data:
                raise NoGuest
            self.received += data
        line, self.received = self.received.split(b"\n", 1)
        return line.decode(errors="replace")

    def stop(self):
        self.process.terminate()
        self.process.wait(self.STOP_SECONDS)
