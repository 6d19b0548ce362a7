# SPDX-License-Identifier: Apache-2.0
"""The devices that are measured: `vsock serve`, and vhost-device-vsock, the peer."""
import os
import subprocess
import time

from .perf import ROOT, say

START_DEADLINE = 60
SERVE = ["serve", "--log-level", "error", "--guest-cid", "3", "--socket", "{socket}", "--uds-path", "{path}"]


def wait_for(path, process):
    """Waits until a socket can be connected to, or the process has ended."""
    deadline = time.monotonic() + START_DEADLINE
    while not path.is_socket():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args[0]} does not make {path}")
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            pass


class Device:
    """A running device with one VM, ours or the peer."""

    def __init__(self, directory, name, command):
        self.name = name
        self.socket = directory / f"{name}.sock"
        self.path = directory / f"{name}.vsock"
        for left in (self.socket, self.path):
            left.unlink(missing_ok=True)
        arguments = [part.format(socket=self.socket, path=self.path) for part in command]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.socket, self.process)
        wait_for(self.path, self.process)

    def options(self):
        return ["--transport", f"driver:{self.socket}", "--uds", str(self.path)]

    def stop(self):
        self.process.terminate()
        self.process.wait(START_DEADLINE)


def script(name, *arguments):
    """What a script prints; None when it fails, after it has said why."""
    run = subprocess.run([str(ROOT / "Scripts" / name), *arguments], stdout=subprocess.PIPE, text=True)
    return run.stdout.strip() if run.returncode == 0 else None


def find_peer():
    """The program of the peer, or None."""
    peer = os.environ.get("VSOCK_PEER") or script("fetch-peer.sh")
    if not peer:
        say("without the peer its columns stay empty; VSOCK_PEER names it")
    return peer
