# SPDX-License-Identifier: Apache-2.0
"""Small situations between a guest and its host, one side of each per command. Every one prints a line of JSON.

half-close      sends, shuts its sending down, then receives until the end of file    (other side: echo-after-end)
echo-after-end  receives until the end of file, then sends everything back            (other side: half-close)
close-unread    waits for data and closes without reading it                          (other side: send-and-wait)
send-and-wait   sends, then receives until the end and says how sending (an errno or null) and receiving ended
wait-end        receives until the connection's end and says which it was: EOF or an errno's name
connect-error   connects, expecting an errno (EOF: a hybrid socket closed without OK), within a time
echo            sends back whatever comes, for a number of connections
many            opens a number of connections at once and exchanges messages on all   (other side: echo)
"""

import argparse
import hashlib
import os
import random
import resource
import select
import selectors
import socket
import sys
import time

import endpoints

MESSAGE_SIZE_MAX = 1 << 18


def messages(options):
    """Content that follows from the seed, in messages of the wanted size."""
    content = random.Random(options.seed).randbytes(options.bytes)
    return [content[offset : offset + options.message] for offset in range(0, len(content), options.message)]


def receive_all(connection):
    """Messages until the end, and how that came: EOF or the name of an errno."""
    received = []
    while True:
        try:
            message = connection.recv(MESSAGE_SIZE_MAX)
        except OSError as error:
            return received, endpoints.error_name(error)
        if not message:
            return received, "EOF"
        received.append(message)


def digest(parts):
    return hashlib.sha256(b"".join(parts)).hexdigest()


def half_close(options):
    with endpoints.open_connection(options) as connection:
        endpoints.report(event="connected")
        sent = messages(options)
        for message in sent:
            endpoints.send_all(connection, message)
        connection.shutdown(socket.SHUT_WR)
        received, end = receive_all(connection)
    is_same = received == sent if options.type == "seqpacket" else b"".join(received) == b"".join(sent)
    endpoints.report(end=end, bytes=sum(map(len, received)), digest=digest(received), same=is_same)
    return is_same and end == "EOF"


def echo_after_end(options):
    with endpoints.open_connection(options) as connection:
        received, end = receive_all(connection)
        for message in received:
            endpoints.send_all(connection, message)
    endpoints.report(end=end, bytes=sum(map(len, received)), digest=digest(received))
    return end == "EOF"


def close_unread(options):
    with endpoints.open_connection(options) as connection:
        # Not MSG_PEEK, which Linux 6.1 lacks for SOCK_SEQPACKET.
        has_data = bool(select.select([connection], [], [], options.timeout)[0])
    endpoints.report(closed=True, data=has_data)
    return has_data


def send_and_wait(options):
    with endpoints.open_connection(options) as connection:
        start, end = time.monotonic(), None
        try:
            for message in messages(options):
                endpoints.send_all(connection, message)
        except OSError as error:
            end = endpoints.error_name(error)
        received, receive_end = receive_all(connection)
    endpoints.report(
        send_end=end, end=receive_end, bytes=sum(map(len, received)), milliseconds=endpoints.milliseconds_since(start))
    return not options.expect or receive_end in options.expect.split(",")


def wait_end(options):
    with endpoints.open_connection(options) as connection:
        start = time.monotonic()
        received, end = receive_all(connection)
    endpoints.report(end=end, bytes=sum(map(len, received)), milliseconds=endpoints.milliseconds_since(start))
    return not options.expect or end in options.expect.split(",")


def connect_error(options):
    """Every attempt must end so; the fastest must be in time: the others measure how busy the machine is."""
    names, fastest = set(), None
    for _ in range(options.attempts):
        start = time.monotonic()
        try:
            endpoints.connect(options).close()
            names.add("OK")
        except OSError as error:
            names.add(endpoints.error_name(error))
        milliseconds = endpoints.milliseconds_since(start)
        fastest = milliseconds if fastest is None else min(fastest, milliseconds)
    endpoints.report(result=sorted(names), milliseconds=fastest)
    return names <= set(options.expect.split(",")) and fastest <= options.within


def allow_descriptors():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def echo(options):
    """One thread for all: what a client sends fits the buffers, so that no send waits for long."""
    allow_descriptors()
    accepted = ended = count = 0
    with endpoints.listen(options, backlog=4096) as listener, selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        while ended < options.connections:
            events = ready.select(options.timeout)
            if not events:
                endpoints.report(accepted=accepted, ended=ended, messages=count, failure="nothing happens")
                return False
            for key, _ in events:
                connection = key.fileobj
                if connection is listener:
                    ready.register(endpoints.accept(options, listener), selectors.EVENT_READ)
                    accepted += 1
                    continue
                try:
                    message = connection.recv(MESSAGE_SIZE_MAX)
                    if message:
                        endpoints.send_all(connection, message)
                        count += 1
                        continue
                except OSError:
                    pass
                ready.unregister(connection)
                connection.close()
                ended += 1
    endpoints.report(accepted=accepted, ended=ended, messages=count)
    return True


def open_many(options, failures):
    """All connections on their way at once, then the hybrid handshakes."""
    opened, remaining = [], options.connections
    while remaining > 0:
        count = min(options.burst or remaining, remaining)
        opened += open_burst(options, count, failures)
        remaining -= count
    return opened


def open_burst(options, count, failures):
    started, opened = [], []
    is_vsock = options.address.startswith("vsock:")
    for _ in range(count):
        try:
            started.append(endpoints.begin_connect(options, blocking=not is_vsock))
        except OSError as error:
            failures.append(endpoints.error_name(error))
    if is_vsock:
        await_connected(options, started, failures)
    for connection in started:
        if connection.fileno() < 0:
            continue
        try:
            connection.setblocking(True)
            endpoints.limit_waits(connection, options.timeout)
            opened.append(endpoints.finish_connect(options, connection))
        except OSError as error:
            failures.append(endpoints.error_name(error))
    return opened


def await_connected(options, started, failures):
    with selectors.DefaultSelector() as ready:
        for connection in started:
            ready.register(connection, selectors.EVENT_WRITE)
        while ready.get_map():
            events = ready.select(options.timeout)
            for key, _ in events:
                ready.unregister(key.fileobj)
                code = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    failures.append(endpoints.error_name(OSError(code, os.strerror(code))))
                    key.fileobj.close()
            if not events:
                failures.extend(["ETIMEDOUT"] * len(ready.get_map()))
                for key in list(ready.get_map().values()):
                    ready.unregister(key.fileobj)
                    key.fileobj.close()


def many(options):
    allow_descriptors()
    failures, start = [], time.monotonic()
    opened = open_many(options, failures)
    connected = endpoints.milliseconds_since(start)
    generator, exchanged = random.Random(options.seed), 0
    for _ in range(options.rounds):
        contents = [generator.randbytes(options.message) for _ in opened]
        for connection, content in zip(opened, contents):
            try:
                endpoints.send_all(connection, content)
            except OSError as error:
                failures.append(endpoints.error_name(error))
        for connection, content in zip(opened, contents):
            try:
                answer = connection.recv(options.message, socket.MSG_WAITALL)
                failures.extend([] if answer == content else ["wrong answer"])
                exchanged += answer == content
            except OSError as error:
                failures.append(endpoints.error_name(error))
    for connection in opened:
        connection.close()
    counts = {name: failures.count(name) for name in set(failures)}
    endpoints.report(
        connected=len(opened), exchanged=exchanged, failures=counts,
        connect_milliseconds=connected, milliseconds=endpoints.milliseconds_since(start))
    return not failures


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, **defaults):
        sub = commands.add_parser(function.__name__.replace("_", "-"))
        endpoints.add_common(sub)
        sub.add_argument("--seed", type=int, default=1)
        sub.add_argument("--bytes", type=int, default=defaults.get("bytes", 100_000), help="bytes to send")
        sub.add_argument("--message", type=int, default=defaults.get("message", 4096), help="bytes in each message")
        sub.add_argument("--expect", default=defaults.get("expect", ""), help="ends or errnos, with commas between")
        sub.add_argument("--within", type=float, default=1000, help="milliseconds that it may take")
        sub.add_argument("--attempts", type=int, default=1, help="how often to try")
        sub.add_argument("--connections", type=int, default=defaults.get("connections", 1))
        sub.add_argument("--burst", type=int, default=0, help="connects under way at a time; 0: all")
        sub.add_argument("--rounds", type=int, default=1, help="messages on each connection")
        sub.set_defaults(function=function)

    for function in (half_close, echo_after_end, close_unread, send_and_wait, wait_end, echo):
        command(function)
    command(connect_error, expect="ECONNRESET,ECONNREFUSED,EOF")
    command(many, connections=1000, message=64)
    options = parser.parse_args()
    if options.message > MESSAGE_SIZE_MAX:
        parser.error("a message has %d bytes at most" % MESSAGE_SIZE_MAX)
    sys.exit(0 if options.function(options) else 1)


if __name__ == "__main__":
    main()
