# SPDX-License-Identifier: Apache-2.0
"""The tables of Documentation/Performance.md."""
import pathlib
import re
import subprocess
import time

from .device import SERVE, START_DEADLINE, Device, find_peer, script
from .guested_device import GuestedDevice
from .perf import VSOCK, perf, say
from .report import DEVICE_TIME, RECEIVER_TIME, gigabits, idle_bytes, median, number, ratio, row

SIZES = ["64", "4K", "64K"]
# The kernel's own program in guests: what a run carries in messages of each size. User Mode Linux takes a hundred
# microseconds for a small one.
GUESTS = {
    "6.12": ("Linux 6.12 in QEMU", {"64": "8M", "4K": "128M", "64K": "512M"}),
    "uml": ("User Mode Linux 6.1", {"64": "2M", "4K": "128M", "64K": "512M"}),
}


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

    @staticmethod
    def loads():
        """Each way, with so many connections and messages of each size: the cells that name it, and the options."""
        for direction in ["guest-to-host", "host-to-guest"]:
            for connections in ["1", "16", "256"]:
                for size in SIZES:
                    yield [direction, size, connections], [
                        "--direction", direction, "--buf-size", size, "--connections", connections]

    # Each gives the lines of a table.

    def streams(self):
        rows = ["| direction | message | connections | device | peer | Unix sockets | device / peer | "
                "CPU s/GiB: device | peer | Unix receiver |", "|---|---|---|---|---|---|---|---|---|---|"]
        devices = self.devices()
        for names, options in self.loads():
            rows.append(self.throughput_row(names, self.compare(self.sources(devices, options, "unix")), "peer"))
        self.stop(devices)
        return rows

    def records(self):
        rows = ["| direction | message | connections | device | Unix sockets | device / Unix | CPU s/GiB: device | "
                "Unix receiver |", "|---|---|---|---|---|---|---|---|"]
        devices = self.devices()
        for names, options in self.loads():
            # The peer has no SOCK_SEQPACKET.
            result = self.compare(self.sources(devices[:1], [*options, "--type", "seqpacket"], "unix"))
            device, unix = result["device"], result["unix"]
            rows.append(row([*names, gigabits(device), gigabits(unix), ratio(device, unix),
                             number(median(device, DEVICE_TIME), 3), number(median(unix, RECEIVER_TIME), 3)]))
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


TABLES = {
    "streams": Bench.streams, "records": Bench.records, "round-trips": Bench.round_trips,
    "loopback": Bench.loopback, "in-process": Bench.in_process, "growth": Bench.growth,
    "guests": Bench.guests,
}
