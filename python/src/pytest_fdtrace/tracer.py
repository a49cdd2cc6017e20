"""The fdtrace that watches this process."""

import os
import shutil
import signal
import subprocess
import tempfile
import time

from .findings import Stream


class CannotTrace(Exception):
    """With what to do about it."""


class Tracer:
    """fdtrace, attached to this process and to what it starts from now on."""

    def __init__(self, program, patience=60):
        self.directory = tempfile.mkdtemp(prefix="pytest-fdtrace-")
        path = os.path.join(self.directory, "findings.jsonl")
        self.errors = open(os.path.join(self.directory, "errors"), "w+b")
        found = shutil.which(program)
        if not found:
            raise CannotTrace(f"there is no `{program}`: install fdtrace, or give its place with --fdtrace-path")
        command = [found, "-p", str(os.getpid()), "--json", path]
        if os.geteuid() != 0:
            command[:0] = ["sudo", "-n", "--"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.errors, start_new_session=True
        )
        self.stream = Stream(path)
        begun = lambda line: line["type"] == "meta"
        if not self._writes(path, patience) or not self.stream.until(begun, patience)[1]:
            said = self.said()
            self.end()
            raise CannotTrace(said or "fdtrace did not begin")

    def _writes(self, path, patience):
        """Waits for the file; whether it is there and fdtrace is too."""
        deadline = time.monotonic() + patience
        while self.process.poll() is None and time.monotonic() < deadline:
            if os.path.exists(path) and os.path.getsize(path) > 0:
                return True
            time.sleep(0.02)
        return False

    def said(self):
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace").strip()

    def end(self):
        """Has it say the rest, where it may be asked to; returns those lines."""
        lines = []
        try:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=30)
            lines = list(self.stream.lines())
        except (PermissionError, subprocess.TimeoutExpired):
            # Root's, through sudo: it ends with us.
            pass
        self.stream.close()
        self.errors.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        return lines


class Outside:
    """The session was started under fdtrace."""

    def __init__(self, path):
        self.stream = Stream(path)

    def end(self):
        lines = list(self.stream.lines())
        self.stream.close()
        return lines
