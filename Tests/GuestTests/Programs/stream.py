# SPDX-License-Identifier: Apache-2.0
"""Sends and verifies a stream of bytes, in one direction or both at once.

`--send-seed` makes this side send `--bytes` bytes that follow from the seed, `--receive-seed` makes it receive and verify
the other side's. Then each side shuts its sending down and waits for the other's end of file. Prints one line of JSON
with the hash of what went each way, the same at both ends.
"""

import hashlib
import random
import socket

import exchange

POOL_SIZE = 1 << 20


def pool_of(seed):
    """The stream repeats these bytes."""
    return random.Random(seed).randbytes(POOL_SIZE)


def send(connection, options, results):
    pool, hash, sent = memoryview(pool_of(options.send_seed)), hashlib.new(options.hash), 0
    while sent < options.bytes:
        offset = sent % POOL_SIZE
        chunk = pool[offset : offset + min(options.chunk, options.bytes - sent)]
        connection.sendall(chunk)
        hash.update(chunk)
        sent += len(chunk)
    connection.shutdown(socket.SHUT_WR)
    results["sent"] = {"bytes": sent, "digest": hash.hexdigest()}


def receive(connection, options, results):
    pool, hash, received = pool_of(options.receive_seed), hashlib.new(options.hash), 0
    while received < options.bytes:
        data = connection.recv(min(1 << 18, options.bytes - received))
        if not data:
            raise ValueError("end of file after %d of %d bytes" % (received, options.bytes))
        offset = received % POOL_SIZE
        expected = pool[offset : offset + len(data)]
        if len(expected) < len(data):
            expected += pool[: len(data) - len(expected)]
        if data != expected:
            raise ValueError("wrong content after %d bytes, seed %d" % (received, options.receive_seed))
        hash.update(data)
        received += len(data)
    results["received"] = {"bytes": received, "digest": hash.hexdigest()}


def await_end(connection, options, _):
    if options.send_seed is None:
        connection.shutdown(socket.SHUT_WR)
    if connection.recv(1):
        raise ValueError("more than %d bytes" % options.bytes)


def main():
    parser = exchange.arguments(__doc__.split("\n")[0])
    parser.set_defaults(type="stream")
    parser.add_argument("--bytes", type=int, default=16 << 20)
    parser.add_argument("--chunk", type=int, default=64 << 10, help="bytes for each send")
    parser.add_argument("--hash", default="sha256", help="md5 is ten times as fast in an emulated guest")
    options = parser.parse_args()
    if options.type != "stream":
        parser.error("streams are for stream sockets")
    exchange.run("stream", options, send, receive, await_end)


if __name__ == "__main__":
    main()
