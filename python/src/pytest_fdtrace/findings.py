"""What fdtrace writes, and what the plugin makes of it. Knows nothing of pytest."""

import json
import os
import time

LEVELS = ["possible", "likely", "proven"]
# `lseek` of a descriptor that there never is, to a place that nobody asks for.
MARK = 0x0FD7ACE0


def mark(number):
    """Puts a line of type `mark` with this number into the stream of whoever traces us."""
    try:
        os.lseek(-1, MARK << 32 | number, os.SEEK_SET)
    except OSError:
        pass


class Stream:
    """Follows a file of JSON lines that is being written."""

    def __init__(self, path):
        self.path = path
        self.file = None
        self.rest = b""

    def lines(self):
        """What has come since the last call, whole lines only."""
        if self.file is None:
            try:
                self.file = open(self.path, "rb")
            except FileNotFoundError:
                return
        self.rest += self.file.read()
        *lines, self.rest = self.rest.split(b"\n")
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def until(self, wanted, patience):
        """What comes up to the first line that is `wanted`, and whether it came in time."""
        seen, deadline, pause = [], time.monotonic() + patience, 0.0005
        while True:
            for line in self.lines():
                seen.append(line)
            if any(wanted(line) for line in seen):
                return seen, True
            if time.monotonic() > deadline:
                return seen, False
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def close(self):
        if self.file is not None:
            self.file.close()


def counts(finding, level):
    """It is sure enough, and no mere note."""
    sure = LEVELS.index(finding["confidence"]) >= LEVELS.index(level)
    return sure and finding["severity"] != "note"


def when(finding):
    """When that happened which is to blame."""
    for part in ("root_cause", "culprit", "victim"):
        if finding[part]:
            return finding[part]["time"]
    return finding["time"]


def text(finding):
    """The finding for people: one sentence, the line that did it, what to do."""
    lines = [f"fdtrace: {finding['rule']} ({finding['confidence']}): {finding['message']}"]
    for part, what in (("root_cause", "root cause"), ("culprit", "culprit"), ("victim", "victim")):
        act = finding[part]
        place = act and where(act)
        if place:
            lines.append(f"  {what}: {act['call'] or act['verb']} at {place}")
    lines.append(f"  help: {finding['advice']}")
    return "\n".join(lines)


def where(act):
    """File, line and source of the frame that made a call."""
    for frame in act["python"] + act["native"]:
        if frame["file"] and frame["line"]:
            source = f": {frame['source'].strip()}" if frame["source"] else ""
            return f"{frame['file']}:{frame['line']}{source}"
    return None


class Windows:
    """Which test was at work when."""

    def __init__(self):
        self.ends = []

    def end(self, time, name):
        """The test of this name, or a part of it, was at work since the last end."""
        self.ends.append((time, name))

    def owner(self, time):
        return next((name for end, name in self.ends if time <= end), None)
