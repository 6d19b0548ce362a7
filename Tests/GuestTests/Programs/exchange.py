# SPDX-License-Identifier: Apache-2.0
"""Runs one connection of a test in both directions at once and reports what crossed."""

import socket
import sys
import threading
import time

import endpoints


def arguments(description):
    """A parser with the options of every exchange: a seed for each direction that there is."""
    parser = endpoints.arguments(description)
    parser.add_argument("--send-seed", type=int)
    parser.add_argument("--receive-seed", type=int)
    return parser


def transfer(connection, options, send, receive, await_end):
    """The results and failures of one connection; each step is step(connection, options, results)."""
    results, failures = {}, []

    def guarded(step):
        try:
            step(connection, options, results)
        except (OSError, ValueError) as error:
            failures.append("%s: %s" % (step.__name__, error))
            # Ends the other direction too, instead of letting it wait for its deadline.
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    wanted = [(options.send_seed, send), (options.receive_seed, receive)]
    threads = [threading.Thread(target=guarded, args=(step,)) for seed, step in wanted if seed is not None]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not failures:
        guarded(await_end)
    return results, failures


def run(program, options, send, receive, await_end):
    """Opens the connection, transfers, reports, and exits with status 1 for any failure."""
    with endpoints.open_connection(options) as connection:
        start = time.monotonic()
        results, failures = transfer(connection, options, send, receive, await_end)
    endpoints.report(program=program, milliseconds=endpoints.milliseconds_since(start), failures=failures, **results)
    sys.exit(1 if failures else 0)
