"""Run a command with a limit on memory, and pass on what it writes as long as its lines are short.

    python guard.py MEGABYTES MOST_BYTES_OF_A_LINE COMMAND [ARGUMENT ...]

A client of the Model Context Protocol reads line by line, and would keep an endless line in memory. Its
text is run by `mcp_server.py`; nothing of Rung is imported.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

CHUNK = 1 << 16  # bytes


def main():
    megabytes, most, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]

    def limit():
        size = megabytes << 20
        # What is written to, not addresses: JavaScript's engines reserve more than they ever use.
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    child = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=limit)
    assert child.stdout is not None
    length = 0  # bytes of the line so far
    while found := os.read(child.stdout.fileno(), CHUNK):
        end = found.rfind(b"\n")
        length = len(found) - end - 1 if end >= 0 else length + len(found)
        if length > most:
            child.kill()
            sys.exit(3)
        sys.stdout.buffer.write(found)
        sys.stdout.buffer.flush()
    sys.exit(child.wait())


if __name__ == "__main__":
    main()
