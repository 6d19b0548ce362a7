# SPDX-License-Identifier: Apache-2.0
"""Runs of `vsock perf`."""
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
VSOCK = os.environ.get("VSOCK_COMMAND", str(ROOT / ".build/release/vsock"))


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


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
