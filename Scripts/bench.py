#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measurements with `vsock perf`, and the gates that need no clock.

    Scripts/bench.py tables [--quick] [--only NAME]   fills the tables of Documentation/Performance.md
    Scripts/bench.py gates                            instructions and allocations per packet, against their limits

`tables` alternates what it compares, A B A B, and gives medians. The peer is vhost-device-vsock: the program that
VSOCK_PEER names, or what Scripts/fetch-peer.sh finds. `gates` needs valgrind.
Both run .build/release/vsock, or what VSOCK_COMMAND names.
"""
import argparse
import json
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from kernel_guest import KernelGuest, NoGuest

ROOT = pathlib.Path(__file__).resolve().parent.parent
VSOCK = os.environ.get("VSOCK_COMMAND", str(ROOT / ".build/release/vsock"))
DOCUMENT = ROOT / "Documentation/Performance.md"
SIZES = ["64", "4K", "64K"]
DEVICE_TIME = "device_cpu_seconds_per_gib"
# Of the process that receives from plain sockets.
RECEIVER_TIME = "receiver_cpu_seconds_per_gib"
START_DEADLINE = 60


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


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


SERVE = ["serve", "--log-level", "error", "--guest-cid", "3", "--socket", "{socket}", "--uds-path", "{path}"]


def start_perf(options):
    return subprocess.Popen([VSOCK, "perf", "--json", *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def report_of(process, timeout, is_expected_to_fail=False):
    """The report of a run; None when it fails, or does not end, which a peer has been seen to do."""
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    if process.returncode != 0:
        if is_expected_to_fail:
            return None
        say(f"failed: {' '.join(process.args)}: {errors.strip()}")
        return None
    return json.loads(output)


def perf(options, seconds, timeout=60):
    """The report of one run, or None."""
    return report_of(start_perf(options if seconds is None else [*options, "--seconds", str(seconds)]), timeout)


def median(reports, key):
    values = [report[key] for report in reports if report and key in report]
    return statistics.median(values) if values else None


# MARK: The peer


def find_peer():
    if os.environ.get("VSOCK_PEER"):
        return os.environ["VSOCK_PEER"]
    fetched = subprocess.run([str(ROOT / "Scripts/fetch-peer.sh")], stdout=subprocess.PIPE, text=True)
    if fetched.returncode != 0:
        say("without the peer its columns stay empty; VSOCK_PEER names it")
        return None
    return fetched.stdout.strip()


# MARK: Tables


class Bench:
    def __init__(self, directory, quick):
        self.directory = directory
        self.seconds = 0.4 if quick else 1.0
        self.rounds = 3 if quick else 7
        self.peer_program = find_peer()

    def compare(self, sources):
        """Runs name -> options, in turns; gives name -> reports."""
        reports = {name: [] for name in sources}
        for _ in range(self.rounds):
            for name, options in sources.items():
                reports[name].append(perf(options, self.seconds))
        return reports

    def device_commands(self):
        commands = {"device": [VSOCK, *SERVE]}
        if self.peer_program:
            commands["peer"] = [
                self.peer_program, "--guest-cid", "4", "--socket", "{socket}", "--uds-path", "{path}"]
        return commands

    def devices(self):
        return [Device(self.directory, name, command) for name, command in self.device_commands().items()]

    def sources(self, devices, options, baseline=None):
        sources = {device.name: [*device.options(), "--device-pid", str(device.process.pid), *options]
                   for device in devices}
        if baseline:
            sources[baseline] = ["--baseline", baseline, *options]
        return sources

    # Each gives the lines of a table.

    def streams(self):
        rows = ["| direction | message | connections | device | peer | Unix sockets | device / peer | "
                "CPU s/GiB: device | peer | Unix receiver |", "|---|---|---|---|---|---|---|---|---|---|"]
        devices = self.devices()
        for direction in ["guest-to-host", "host-to-guest"]:
            for connections in [1, 16, 256]:
                for size in SIZES:
                    options = ["--direction", direction, "--buf-size", size, "--connections", str(connections)]
                    result = self.compare(self.sources(devices, options, "unix"))
                    rows.append(self.throughput_row([direction, size, str(connections)], result, "peer"))
        self.stop(devices)
        return rows

    def records(self):
        rows = ["| direction | message | connections | device | Unix sockets | device / Unix | CPU s/GiB: device | "
                "Unix receiver |", "|---|---|---|---|---|---|---|---|"]
        devices = self.devices()
        for direction in ["guest-to-host", "host-to-guest"]:
            for connections in [1, 16, 256]:
                for size in SIZES:
                    options = ["--direction", direction, "--buf-size", size, "--connections", str(connections),
                               "--type", "seqpacket"]
                    # The peer has no SOCK_SEQPACKET.
                    result = self.compare(self.sources(devices[:1], options, "unix"))
                    device, unix = result["device"], result["unix"]
                    rows.append(row([direction, size, str(connections), gigabits(device), gigabits(unix),
                                     ratio(device, unix), number(median(device, DEVICE_TIME), 3),
                                     number(median(unix, RECEIVER_TIME), 3)]))
        self.stop(devices)
        return rows

    def round_trips(self):
        rows = ["| message | device p50 / p99 / p99.9, µs | peer | Unix sockets | device / peer, p50 | p99 |",
                "|---|---|---|---|---|---|"]
        devices = self.devices()
        for size in ["64", "4K"]:
            result = self.compare(self.sources(devices, ["--direction", "round-trip", "--buf-size", size], "unix"))
            keys = [f"round_trip_ns_{name}" for name in ["p50", "p99", "p99_9"]]

            def times(reports):
                values = [median(reports, key) for key in keys]
                return " / ".join(number(value and value / 1000, 1) for value in values)

            peer = result.get("peer", [])
            rows.append(row([size, times(result["device"]), times(peer), times(result["unix"]),
                             ratio(result["device"], peer, keys[0]), ratio(result["device"], peer, keys[1])]))
        self.stop(devices)
        return rows

    def loopback(self):
        rows = ["| type | message | loopback | Unix sockets of two threads | loopback / Unix |", "|---|---|---|---|---|"]
        for kind in ["stream", "seqpacket"]:
            for size in SIZES:
                options = ["--type", kind, "--buf-size", size]
                result = self.compare({"loopback": ["--transport", "loopback", *options],
                                       "unix": ["--baseline", "unix-threads", *options]})
                rows.append(row([kind, size, gigabits(result["loopback"]), gigabits(result["unix"]),
                                 ratio(result["loopback"], result["unix"])]))
        return rows

    def in_process(self):
        rows = ["| message | guest to host, one thread | by memcpy | host to guest, one thread | by memcpy | "
                "guest to host, threads | memcpy of the same bytes | memcpy from thread to thread |",
                "|---|---|---|---|---|---|---|---|"]
        for size in ["4K", "64K"]:
            # Threads take turns on few cores: with a small window they wait for each other most of the time.
            options = ["--buf-size", size, "--vsk-size", "1M"]
            driver = ["--transport", f"driver:{self.directory}/in-process.sock", "--in-process", *options]
            result = self.compare({"up": [*driver, "--one-thread"],
                                   "down": [*driver, "--one-thread", "--direction", "host-to-guest"],
                                   "threads": driver, "memcpy": ["--baseline", "memory-copy", *options],
                                   "copies": ["--baseline", "thread-copy", *options]})
            rows.append(row([size, gigabits(result["up"]), ratio(result["up"], result["memcpy"]),
                             gigabits(result["down"]), ratio(result["down"], result["memcpy"]),
                             gigabits(result["threads"]), gigabits(result["memcpy"]), gigabits(result["copies"])]))
        return rows

    def growth(self):
        rows = ["| what | measured |", "|---|---|"]
        devices = self.devices()[:1]
        busy = ["--direction", "guest-to-host", "--buf-size", "4K"]
        result = self.compare({"alone": self.sources(devices, busy)["device"],
                               "among": [*self.sources(devices, busy)["device"], "--idle", "10000"]})
        rows.append(row(["one busy connection among 10,000 idle ones, by alone", ratio(result["among"], result["alone"])]))
        rows.append(row(["memory of an idle connection", f"{idle_bytes(result['among'])} bytes"]))
        many = self.compare({"one": self.sources(devices, busy)["device"],
                             "many": [*self.sources(devices, busy)["device"], "--connections", "256"]})
        rows.append(row(["256 connections at once, sum by one", ratio(many["many"], many["one"])]))
        rows.append(row(["the slowest of 256, by the mean", number(median(many["many"], "slowest_connection_share"), 2)]))
        self.stop(devices)
        rows += self.many_vms(500)
        return rows

    def guests(self):
        rows = ["| guest | direction | message | device | peer | device / peer | CPU s/GiB: device | peer |",
                "|---|---|---|---|---|---|---|---|"]
        bootable = script("setup.sh", "--kernels")
        programs = script("kernel-programs.sh", "6.12")
        for kernel, (label, byte_counts) in GUESTS.items():
            if not bootable or not programs or kernel not in bootable.split(","):
                say(f"without {label}: see Scripts/setup.sh")
                continue
            pairs = {name: GuestedDevice(self.directory, name, command, kernel, f"{programs}/vsock_perf")
                     for name, command in self.device_commands().items()}
            for direction in ["guest-to-host", "host-to-guest"]:
                for size, byte_count in byte_counts.items():
                    for pair in pairs.values():
                        pair.begin()
                    for _ in range(self.rounds):
                        for pair in pairs.values():
                            pair.measure(direction, size, byte_count)
                    rows.append(self.guests_row([label, direction, size], pairs["device"], pairs.get("peer")))
            self.stop(pairs.values())
        return rows

    def many_vms(self, count):
        directory = self.directory / "vms"
        directory.mkdir(exist_ok=True)
        vms = []
        for index in range(count):
            vms += ["--vm", f"guest-cid={index + 3},socket={directory}/{index}.sock,uds-path={directory}/{index}.vsock"]
        start = time.monotonic()
        process = subprocess.Popen(
            [VSOCK, "serve", "--log-level", "error", *vms], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)
        # It says so of each VM when all are served.
        line = process.stdout.readline()
        while line and not line.startswith(f"VM with CID {count + 2}:"):
            line = process.stdout.readline()
        seconds = time.monotonic() - start
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        base = self.resident_with_one_vm()
        threads = re.search(r"Threads:\s+(\d+)", status).group(1)
        resident = int(re.search(r"VmRSS:\s+(\d+)", status).group(1))
        process.terminate()
        process.wait(START_DEADLINE)
        return [row([f"{count} VMs on one `serve`, start to ready", f"{seconds:.2f} s, {threads} threads"]),
                row(["memory of an idle VM, above a `serve` with one", f"{(resident - base) / (count - 1):.0f} KiB"])]

    def resident_with_one_vm(self):
        device = Device(self.directory, "one", [VSOCK, *SERVE])
        status = pathlib.Path(f"/proc/{device.process.pid}/status").read_text()
        device.stop()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1))

    def throughput_row(self, names, result, other):
        device, peer, unix = result["device"], result.get(other, []), result["unix"]
        return row([*names, gigabits(device), gigabits(peer), gigabits(unix), ratio(device, peer),
                    number(median(device, DEVICE_TIME), 3), number(median(peer, DEVICE_TIME), 3),
                    number(median(unix, RECEIVER_TIME), 3)])

    @staticmethod
    def guests_row(names, device, peer):
        reports, others = device.reports, peer.reports if peer else []
        return row([*names, device.cell(), peer.cell() if peer else "", ratio(reports, others),
                    number(median(reports, DEVICE_TIME), 3), number(median(others, DEVICE_TIME), 3)])

    @staticmethod
    def stop(devices):
        for device in devices:
            device.stop()


# The kernel's own program in guests: what a run carries in messages of each size. User Mode Linux takes a hundred
# microseconds for a small one.
GUESTS = {
    "6.12": ("Linux 6.12 in QEMU", {"64": "8M", "4K": "128M", "64K": "512M"}),
    "uml": ("User Mode Linux 6.1", {"64": "2M", "4K": "128M", "64K": "512M"}),
}
GUEST_DEADLINE = 20
# The status of timeout(1).
TIMED_OUT = 124


def script(name, *arguments):
    """What a script prints; None when it fails, after it has said why."""
    run = subprocess.run([str(ROOT / "Scripts" / name), *arguments], stdout=subprocess.PIPE, text=True)
    return run.stdout.strip() if run.returncode == 0 else None


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


def idle_bytes(reports):
    """Of the first run: later ones find memory that the device has kept."""
    return next(report["device_bytes_per_idle_connection"] for report in reports if report)


def number(value, digits):
    return "" if value is None else f"{value:.{digits}f}"


def gigabits(reports, digits=2):
    return number(median(reports, "gigabits_per_second"), digits)


def ratio(reports, others, key="gigabits_per_second"):
    value, other = median(reports, key), median(others, key)
    return f"{value / other:.2f}×" if value and other else ""


def row(cells):
    return "| " + " | ".join(cells) + " |"


TABLES = {
    "streams": Bench.streams, "records": Bench.records, "round-trips": Bench.round_trips,
    "loopback": Bench.loopback, "in-process": Bench.in_process, "growth": Bench.growth,
    "guests": Bench.guests,
}


def machine():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    def git(*arguments):
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()

    # The table before this one has changed the document, which is not what is measured.
    changes = git("status", "--porcelain", "--", "Sources", "Package.swift")
    commit = git("describe", "--always") + ("-dirty" if changes else "")
    load = os.getloadavg()[0]
    return (f"{os.cpu_count()} cores ({model or platform.machine()}), Linux {platform.release()}, commit {commit}, "
            f"load average {load:.1f} at the start")


def tables(arguments):
    text = DOCUMENT.read_text()
    with tempfile.TemporaryDirectory(prefix="vsock-bench-") as directory:
        bench = Bench(pathlib.Path(directory), arguments.quick)
        where = machine()
        for name, measure in TABLES.items():
            if arguments.only and name not in arguments.only:
                continue
            say(name)
            rows = measure(bench)
            # vsock_perf counts bytes.
            length = "" if name == "guests" else f" of {bench.seconds} s"
            made = [f"Medians of {bench.rounds} alternating runs{length}; {where}.", "", *rows]
            begin, end = f"<!-- bench: {name} -->", "<!-- bench: end -->"
            pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
            if not pattern.search(text):
                sys.exit(f"bench: {DOCUMENT} has no marker {begin}")
            text = pattern.sub(lambda _: "\n".join([begin, "", *made, "", end]), text, count=1)
            DOCUMENT.write_text(text)


# MARK: Gates

# Per packet of the device in steady state. The limits leave room for other compilers, not for another call per packet:
# measured values are in Documentation/Performance.md.
GATES = [
    # type, direction, instructions
    ("stream", "guest-to-host", 1200),
    ("seqpacket", "guest-to-host", 1400),
    ("seqpacket", "host-to-guest", 1200),
]
GATE_PACKETS = (2_000, 12_000)
GATE_ALLOCATIONS = 0.01


def gates(_):
    """Two runs of different length: what they differ by is what packets cost, without start and end."""
    if not shutil.which("valgrind"):
        sys.exit("bench: valgrind is missing: apt-get install valgrind")
    failed = False
    with tempfile.TemporaryDirectory(prefix="vsock-gates-") as name:
        directory = pathlib.Path(name)
        # With debug information valgrind takes minutes to start.
        program = directory / "vsock"
        subprocess.run(["strip", "-o", str(program), VSOCK], check=True)
        for kind, direction, limit in GATES:
            few, many = (cost(directory, program, kind, direction, count) for count in GATE_PACKETS)
            packets = GATE_PACKETS[1] - GATE_PACKETS[0]
            instructions, allocations = ((many[index] - few[index]) / packets for index in range(2))
            bad = instructions > limit or allocations > GATE_ALLOCATIONS
            failed = failed or bad
            print(f"{kind} {direction}: {instructions:.0f} instructions a packet (limit {limit}), "
                  f"{allocations:.4f} allocations (limit {GATE_ALLOCATIONS}){': TOO MANY' if bad else ''}", flush=True)
    sys.exit(1 if failed else 0)


def cost(directory, program, kind, direction, packets):
    """Instructions and allocations of a device that has carried so many packets of 64 bytes."""
    output = directory / "callgrind.out"
    device = Device(directory, "gate", [
        "valgrind", "--tool=callgrind", f"--callgrind-out-file={output}", str(program), *SERVE])
    report = perf([*device.options(), "--type", kind, "--direction", direction, "--buf-size", "64",
                   "--bytes", str(64 * packets)], None, timeout=600)
    device.stop()
    if not report or report["bytes"] != 64 * packets:
        sys.exit(f"bench: {kind} {direction}: not all packets came")
    text = output.read_text()
    total = int(re.search(r"^(?:summary|totals): (\d+)", text, re.M).group(1))
    return total, allocation_calls(text)


def allocation_calls(text):
    """Calls of the allocator in callgrind's output: `calls=N` lines that follow a `cfn=` which names it."""
    names = {}
    calls = 0
    called = ""
    for line in text.splitlines():
        match = re.match(r"c?fn=(\(\d+\))(?: (.*))?", line)
        if match:
            if match.group(2):
                names[match.group(1)] = match.group(2)
            if line.startswith("cfn="):
                called = names.get(match.group(1), "")
        elif line.startswith("calls=") and called in ("malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"):
            calls += int(line[6:].split()[0])
    return calls


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("tables")
    command.add_argument("--quick", action="store_true", help="three runs of 0.4 s")
    command.add_argument("--only", action="append", choices=sorted(TABLES), help="this table; repeatable")
    command.set_defaults(run=tables)
    commands.add_parser("gates").set_defaults(run=gates)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
