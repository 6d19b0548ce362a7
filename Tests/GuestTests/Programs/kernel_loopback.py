# SPDX-License-Identifier: Apache-2.0
"""Runs vsock tests over this kernel's own loopback, context ID 1: two commands against each other.

kernel_loopback.py COUNT SERVER... -- CLIENT...

Each is a command without the options that both programs have: --mode, --control-host, --control-port, --peer-cid.
Fails unless both pass COUNT cases.
"""

import re
import subprocess
import sys
import threading


def options(mode, port):
    return ["--mode", mode, "--control-host", "127.0.0.1", "--control-port", port, "--peer-cid", "1"]


def main():
    count = int(sys.argv[1])
    split = sys.argv.index("--")
    server, client = sys.argv[2:split], sys.argv[split + 1 :]
    port = "9000"
    listening = subprocess.Popen(server + options("server", port), stdout=subprocess.PIPE, text=True)
    said = [""]
    while "listening" not in said[-1]:
        line = listening.stdout.readline()
        if not line:
            sys.exit("the server does not listen")
        said.append(line)
    rest = threading.Thread(target=lambda: said.append(listening.stdout.read()))
    rest.start()
    answer = subprocess.run(client + options("client", port), stdout=subprocess.PIPE, text=True)
    listening.wait()
    rest.join()
    for name, status, output in [
        ("server", listening.returncode, "".join(said)),
        ("client", answer.returncode, answer.stdout),
    ]:
        passed = len(re.findall(r"^\d+ - .*\.\.\.ok$", output, re.MULTILINE))
        print(f"{name}: status {status}, {passed} passed")
        if status != 0 or passed != count:
            sys.exit(output)


main()
