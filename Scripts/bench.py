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
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile

from benchmark.gates import gates
from benchmark.perf import ROOT, say
from benchmark.tables import TABLES, Bench

DOCUMENT = ROOT / "Documentation/Performance.md"


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
