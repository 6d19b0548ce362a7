# SPDX-License-Identifier: Apache-2.0
"""A device with a Linux guest, where the kernel's vsock_perf runs."""
import pathlib
import re
import time

from .device import Device, wait_for
from .kernel_guest import KernelGuest, NoGuest
from .perf import VSOCK, report_of, start_perf
from .report import gigabits

GUEST_DEADLINE = 20
# The status of timeout(1).
TIMED_OUT = 124


class GuestedDevice:
    """A device with a Linux guest, where the kernel's vsock_perf runs."""

    def __init__(self, directory, name, command, kernel, program):
        self.directory, self.name, self.command, self.kernel = directory, name, command, kernel
        self.program = f"timeout {GUEST_DEADLINE} {program}"
        self.start()

    def start(self):
        self.device = Device(self.directory, self.name, self.command)
        try:
            self.guest = KernelGuest(VSOCK, self.kernel, self.device.socket)
        except NoGuest:
            self.guest = None

    def stop(self):
        if self.guest:
            self.guest.stop()
        self.device.stop()

    def begin(self):
        """Begins with another case."""
        self.reports = []
        self.failure = "" if self.guest else "does not boot"

    def measure(self, direction, size, byte_count):
        """One more run. A case that has failed fails again, and may take the whole time limit: it is not repeated."""
        if self.failure:
            return
        try:
            status, report = (self.guest_sends if direction == "guest-to-host" else self.host_sends)(
                size, byte_count)
        except NoGuest:
            status, report = TIMED_OUT, None
        if status == 0 and report:
            self.reports.append(report)
            return
        if status not in (0, TIMED_OUT):
            self.failure = "fails"
        elif report and report["bytes"] > 0:
            self.failure = f"{report['bytes'] >> 20} MiB in {GUEST_DEADLINE} s"
        else:
            self.failure = "hangs"
        # Whatever state they are in, the next case gets new ones.
        self.stop()
        self.start()

    def cell(self):
        return self.failure or gigabits(self.reports, 3)

    def perf_options(self):
        return ["--transport", f"uds:{self.device.path}", "--device-pid", str(self.device.process.pid)]

    # Each gives the status of vsock_perf, and the report of `vsock perf` if it has ended, with the receiver's rate.

    def guest_sends(self, size, byte_count):
        receiver = start_perf(self.perf_options())
        try:
            wait_for(pathlib.Path(f"{self.device.path}_1234"), receiver)
            status, _ = self.guest.run(
                f"{self.program} --sender 2 --bytes {byte_count} --buf-size {size}", 2 * GUEST_DEADLINE)
            return status, report_of(receiver, GUEST_DEADLINE if status == 0 else 1)
        finally:
            receiver.kill()
            receiver.wait()

    def host_sends(self, size, byte_count):
        self.guest.start(self.program)
        options = [*self.perf_options(), "--sender", "3", "--bytes", byte_count, "--buf-size", size]
        deadline = time.monotonic() + GUEST_DEADLINE
        report = None
        # Until the guest listens, the sender is refused.
        while not report and time.monotonic() < deadline:
            report = report_of(start_perf(options), GUEST_DEADLINE, is_expected_to_fail=True)
        status, said = self.guest.finish(2 * GUEST_DEADLINE)
        rate = re.search(r"rx performance: ([0-9.]+)", said)
        return status, {**report, "gigabits_per_second": float(rate.group(1))} if report and rate else None
