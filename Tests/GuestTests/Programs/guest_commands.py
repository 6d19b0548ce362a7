# SPDX-License-Identifier: Apache-2.0
"""Runs the commands that come on standard input in a guest, each at once and beside the others, until its end.

A line is a number and a command for the shell. Answers with "NUMBER: " before each line that the command writes, and
"NUMBER status STATUS" when it has ended. A program of this directory, `/usr/bin/python3 NAME.py ARGUMENTS`, runs in a
copy of this process: an emulated guest takes seconds to start Python.
"""

import importlib
import os
import selectors
import shlex
import sys
import traceback

PROGRAMS = {name + ".py": importlib.import_module(name) for name in ("records", "scenarios", "stream")}


class Command:
    """One that runs; what it writes comes out line by line."""

    def __init__(self, number, text):
        self.number = number
        self.partial = b""
        self.output, written = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            run(text, written)
        os.close(written)

    def answer(self, text):
        os.write(1, b"%s%s\n" % (self.number, text))

    def take(self):
        """Passes on what has been written; False at the end of it."""
        data = os.read(self.output, 65536)
        *lines, self.partial = (self.partial + data).split(b"\n")
        for line in lines:
            self.answer(b": " + line)
        return bool(data)

    def end(self):
        """Passes on what is left, and the status."""
        if self.partial:
            self.answer(b": " + self.partial)
        os.close(self.output)
        _, status = os.waitpid(self.process, 0)
        code = os.waitstatus_to_exitcode(status)
        self.answer(b" status %d" % (code if code >= 0 else 128 - code))


def run(text, output):
    """The command itself, in the new process."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, 1024)
    program, *arguments = text.decode().split(" ", 1)
    words = shlex.split(arguments[0]) if program == "/usr/bin/python3" else [""]
    if words[0] not in PROGRAMS:
        os.execv("/bin/sh", ["sh", "-c", text])
    status = 1
    try:
        sys.argv = words
        PROGRAMS[words[0]].main()
        status = 0
    except SystemExit as end:
        status = end.code or 0
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main():
    commands, partial = selectors.DefaultSelector(), b""
    commands.register(0, selectors.EVENT_READ)
    os.write(1, b"ready\n")
    while True:
        for key, _ in commands.select():
            if key.data:
                if not key.data.take():
                    commands.unregister(key.fd)
                    key.data.end()
                continue
            data = os.read(0, 65536)
            if not data:
                return
            *lines, partial = (partial + data).split(b"\n")
            for line in lines:
                command = Command(*line.split(b" ", 1))
                commands.register(command.output, selectors.EVENT_READ, command)


main()
