# SPDX-License-Identifier: Apache-2.0
"""What a packet costs the device, counted without a clock: instructions and allocations, against their limits."""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from .device import SERVE, Device
from .perf import VSOCK, perf

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
