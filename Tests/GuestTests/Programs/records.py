# SPDX-License-Identifier: Apache-2.0
"""Sends and verifies records over SOCK_SEQPACKET, in one direction or both at once.

Each side knows the seeds: `--send-seed` makes it send, `--receive-seed` makes it receive and verify what the other side
sends with that seed. A record's size, 1 to `--size-max` bytes, and its content follow from seed and index; record by
record, the receiver checks length and content. The last record has `--large` bytes. Then each side shuts its sending down
and waits for the other's end of file. Prints one line of JSON; `digest` is the SHA-256 of the records' MD5 digests in
order, the same at both ends (MD5, because it is by far the fastest hash in an emulated guest).
"""

import errno
import hashlib
import random
import socket
import struct

import endpoints
import exchange

POOL_SIZE = 1 << 20


class Plan:
    """The records of a seed: for each its header and where in the pool the rest is."""

    def __init__(self, seed, options):
        self.generator = random.Random(seed)
        self.pool = self.generator.randbytes(POOL_SIZE)
        self.count = options.count + (1 if options.large else 0)
        self.options = options

    def __iter__(self):
        for index in range(self.count):
            is_large = index == self.options.count
            size = self.options.large if is_large else self.generator.randint(1, self.options.size_max)
            header = struct.pack("<Q", index) if size >= 8 else b""
            rest = size - len(header)
            offset = self.generator.randrange(POOL_SIZE - rest)
            yield index, header, offset, rest


class Tally:
    """What went one way."""

    def __init__(self):
        self.count, self.bytes, self.digest = 0, 0, hashlib.sha256()

    def add(self, *parts):
        hash = hashlib.md5(usedforsecurity=False)
        for part in parts:
            hash.update(part)
            self.bytes += len(part)
        self.digest.update(hash.digest())
        self.count += 1

    def fields(self):
        return {"count": self.count, "bytes": self.bytes, "digest": self.digest.hexdigest()}


def send(connection, options, results):
    tally, plan = Tally(), Plan(options.send_seed, options)
    view = memoryview(plan.pool)
    for index, header, offset, rest in plan:
        body = view[offset : offset + rest]
        sent = connection.sendmsg([header, body] if header else [body])
        if sent != len(header) + rest:
            raise ValueError("record %d: %d of %d bytes sent" % (index, sent, len(header) + rest))
        tally.add(header, body)
    if options.oversize:
        results["oversize"] = send_oversize(connection, options.oversize)
    connection.shutdown(socket.SHUT_WR)
    results["sent"] = tally.fields()


def send_oversize(connection, size):
    try:
        connection.send(bytes(size))
    except OSError as error:
        if error.errno not in (errno.EMSGSIZE, errno.ENOMEM, errno.ENOBUFS):
            raise
        return endpoints.error_name(error)
    raise ValueError("a record of %d bytes was accepted" % size)


def receive(connection, options, results):
    tally, plan = Tally(), Plan(options.receive_seed, options)
    buffer = bytearray(endpoints.RECORD_SIZE_MAX)
    view = memoryview(buffer)
    for index, header, offset, rest in plan:
        size, _, flags, _ = connection.recvmsg_into([buffer])
        if flags & socket.MSG_TRUNC:
            raise ValueError("record %d: truncated" % index)
        if size != len(header) + rest:
            raise ValueError("record %d: %d bytes instead of %d" % (index, size, len(header) + rest))
        record = bytes(view[:size])
        if not record.startswith(header) or record[len(header) :] != plan.pool[offset : offset + rest]:
            raise ValueError("record %d: wrong content, seed %d" % (index, options.receive_seed))
        tally.add(record)
    results["received"] = tally.fields()


def await_end(connection, options, _):
    if options.send_seed is None:
        connection.shutdown(socket.SHUT_WR)
    size = len(connection.recv(1 << 16))
    if size:
        raise ValueError("%d bytes after the last record" % size)


def main():
    parser = exchange.arguments(__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="records each way, besides the large one")
    parser.add_argument("--size-max", type=int, default=64 << 10)
    parser.add_argument("--large", type=int, default=256 << 10, help="size of the last record; 0: none")
    parser.add_argument("--oversize", type=int, default=0, help="try a record of this size, which must be refused")
    options = parser.parse_args()
    if options.type != "seqpacket" or max(options.large, options.size_max) > POOL_SIZE // 2:
        parser.error("records are for seqpacket, of %d bytes at most" % (POOL_SIZE // 2))
    exchange.run("records", options, send, receive, await_end)


if __name__ == "__main__":
    main()
