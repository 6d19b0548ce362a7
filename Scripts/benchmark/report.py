# SPDX-License-Identifier: Apache-2.0
"""What several reports of `vsock perf` come to, as cells of a table."""
import statistics

DEVICE_TIME = "device_cpu_seconds_per_gib"
# Of the process that receives from plain sockets.
RECEIVER_TIME = "receiver_cpu_seconds_per_gib"


def median(reports, key):
    values = [report[key] for report in reports if report and key in report]
    return statistics.median(values) if values else None


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
