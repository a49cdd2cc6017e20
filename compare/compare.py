#!/usr/bin/env python3
"""Runs the same programs under fdtrace and its peers and says what each of them made of it.

    sudo python3 compare/compare.py [--fdtrace PATH] [--only NAME] [--write]

Needs Python 3.9 or later, a C compiler, and for the peers: strace, and apt with a Debian archive, from which valgrind 3.26
or later is unpacked into a cache (nothing is installed). What is not there is left out, and the table says so.
--write puts the result into docs/compare.md.

How a verdict is made stands in TOOLS: regular expressions on what the tool prints. The line that is to blame is marked
`culprit` in the program; a tool has named it if it prints its file and number.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
PAGE = HERE.parent / "docs" / "compare.md"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "fdtrace-compare"
PATIENCE = 120

# Name, is it broken, what happens.
CASES = [
    ("blog.py", True, "the README's program: closed behind an object's back"),
    ("double_close.c", True, "closed twice, with a thread that could take the number"),
    ("use_after_close.c", True, "read after close"),
    ("stale_thread.c", True, "closed under a thread that uses it"),
    ("stale_write.c", True, "a stale write that succeeds, bare numbers"),
    ("stale_static.c", True, "the same, with the number in a static variable"),
    ("stale_write_stdio.c", True, "a stale write that succeeds, through a `FILE`"),
    ("ghost_event.c", True, "an event for a closed number"),
    ("asyncio_fork.py", True, "one event loop on both sides of a fork"),
    ("shared_stream.c", True, "one connection in two processes"),
    ("close_loop.c", False, "correct: closes every number there might be"),
    ("close_loop_probe.c", False, "correct: the same, asking first"),
    ("redirect.c", False, "correct: stdout sent elsewhere and put back"),
]


class Tool:
    """A way to run a program, and how to read what is said of it."""

    def __init__(self, name, wrap, complains, applies=lambda source: True, rounds=20_000, build="plain"):
        self.name = name
        self.wrap = wrap  # the command, given the program's
        self.complains = complains  # a finding, in its output
        self.applies = applies
        self.rounds = rounds  # of the loop that measures
        self.build = build

    def run(self, command, scratch):
        """Everything it says."""
        report = scratch / "report"
        report.unlink(missing_ok=True)
        wrapped = self.wrap(command, report)
        ran = subprocess.run(wrapped, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, cwd=scratch)
        text = (ran.stdout + ran.stderr).decode(errors="replace")
        if report.exists():
            text += report.read_text(errors="replace")
        return text


class Fdtrace(Tool):
    """Its findings are data: those that it is at least likely of, notes aside."""

    def __init__(self, path):
        super().__init__("fdtrace", lambda command, report: [path, "--json", report, "--", *command], None, rounds=200_000)

    @staticmethod
    def findings(text):
        lines = (line for line in text.splitlines() if line.startswith('{"type":"finding"'))
        found = (json.loads(line) for line in lines)
        return [f for f in found if f["confidence"] != "possible" and f["severity"] != "note"]


def is_c(source):
    return source.suffix == ".c"


def is_python(source):
    return source.suffix == ".py"


def tools(args):
    python = sys.executable
    found = [Fdtrace(args.fdtrace)]
    missing = []
    valgrind = find_valgrind()
    if valgrind:
        for name, more in [("valgrind", []), ("valgrind, --modify-fds=high", ["--modify-fds=high"])]:
            options = ["--tool=none", "--track-fds=bad", "--trace-children=no", *more]
            found.append(
                Tool(
                    name,
                    lambda command, report, options=options: [*valgrind, *options, f"--log-file={report}", *command],
                    r"File descriptor \d+[^\n]*(already closed|was closed|not open)|Bad file descriptor|is already closed",
                )
            )
    else:
        missing.append("valgrind 3.26 or later: apt could not get it")
    strace = shutil.which("strace")
    if strace:
        found.append(
            Tool(
                "strace -f -yy",
                lambda command, report: [strace, "-f", "-yy", "-o", report, *command],
                r"= -1 EBADF",
                rounds=3_000,
            )
        )
    else:
        missing.append("strace: not on the path")
    if args.cc and can_build(args.cc, "tsan"):
        found.append(
            Tool(
                "gcc -fsanitize=thread",
                lambda command, report: command,
                r"WARNING: ThreadSanitizer",
                applies=is_c,
                rounds=200_000,
                build="tsan",
            )
        )
    else:
        missing.append("thread sanitizer: the compiler cannot")
    found.append(
        Tool(
            "python -X dev",
            lambda command, report: [python, "-X", "dev", *command[1:]],
            r"ResourceWarning|Exception ignored",
            applies=is_python,
        )
    )
    return found, missing


FLAGS = {"plain": [], "tsan": ["-fsanitize=thread"]}


def build(cc, source, kind, scratch):
    program = scratch / f"{source.stem}-{kind}"
    subprocess.run([cc, "-g", "-O1", "-pthread", *FLAGS[kind], "-o", program, source], check=True, capture_output=True)
    return [str(program)]


def can_build(cc, kind):
    with tempfile.TemporaryDirectory() as scratch:
        try:
            command = build(cc, PROGRAMS / "loop.c", kind, pathlib.Path(scratch))
            return subprocess.run(command, capture_output=True).returncode == 0
        except (OSError, subprocess.CalledProcessError):
            return False


def find_valgrind():
    """The system's, if it is new enough; else that of Debian's unstable distribution, unpacked into the cache."""
    system = shutil.which("valgrind")
    if system and version([system]) >= (3, 26):
        return [system]
    root = CACHE / "valgrind"
    command = ["env", f"VALGRIND_LIB={root}/usr/libexec/valgrind", str(root / "usr/bin/valgrind.bin")]
    if not root.exists():
        try:
            unpack("valgrind", "sid", root)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no valgrind from Debian: {error}", file=sys.stderr)
            shutil.rmtree(root, ignore_errors=True)
    if not (root / "usr/bin/valgrind.bin").exists():
        command[-1] = str(root / "usr/bin/valgrind")
    return command if version(command) >= (3, 26) else None


def version(command):
    try:
        text = subprocess.run([*command, "--version"], capture_output=True, text=True).stdout
        return tuple(int(number) for number in re.findall(r"\d+", text)[:2])
    except OSError:
        return (0, 0)


def unpack(package, suite, root):
    """Downloads a package with lists of apt's that are not the system's, and unpacks it beside the system."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
    ).stdout
    archives = [line.split()[1].rstrip("/") for line in targets.splitlines() if line.startswith("Debian ")]
    archive = next((uri for uri in archives if uri.endswith("/debian")), "http://deb.debian.org/debian")
    apt = CACHE / "apt"
    for directory in ["state/lists/partial", "cache/archives/partial"]:
        (apt / directory).mkdir(parents=True, exist_ok=True)
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "sources.list").write_text(f"deb [signed-by={key}] {archive} {suite} main\n")
    (apt / "status").write_text("")
    # The system's own configuration is read first: proxies and the like stay.
    settings = {
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Acquire::Languages": "none",
    }
    config = apt / "apt.conf"
    config.write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
    get = ["apt-get", f"--config-file={config}"]
    subprocess.run([*get, "-q", "update"], check=True, stdout=sys.stderr)
    subprocess.run([*get, "-q", "download", package], check=True, stdout=sys.stderr, cwd=apt)
    root.mkdir(parents=True)
    for archive in apt.glob(f"{package}_*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive, root], check=True)
        archive.unlink()


def culprits(source):
    lines = source.read_text().splitlines()
    return [number for number, line in enumerate(lines, 1) if re.search(r"(#|/\*) culprit", line)]


def judge(tool, source, text):
    """Was something said, and was the guilty line named?"""
    if isinstance(tool, Fdtrace):
        found = tool.findings(text)
        rules = sorted({f["rule"] for f in found})
        blamed = [
            (pathlib.Path(frame["file"] or "").name, frame["line"])
            for f in found
            for act in (f["culprit"], f["root_cause"], *f["timeline"])
            if act
            for frame in act["python"] + act["native"]
        ]
        return bool(found), any((source.name, line) in blamed for line in culprits(source)), ", ".join(rules)
    caught = re.search(tool.complains, text)
    lines = "|".join(map(str, culprits(source)))
    place = rf'{re.escape(source.name)}(:|", line )({lines})\b'
    return bool(caught), bool(caught and lines and re.search(place, text)), ""


def measure(tool, programs, scratch):
    """Nanoseconds for one round of the loop, start-up taken off."""

    def took(rounds):
        command = tool.wrap([*programs[tool.build], str(rounds)], scratch / "report")
        times = []
        for _ in range(3):
            (scratch / "report").unlink(missing_ok=True)
            start = time.perf_counter()
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=True)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    return (took(tool.rounds) - took(0)) / tool.rounds * 1e9


def word(tool, source, broken, outcome):
    if outcome is None:
        return "–"
    caught, named, rules = outcome
    if not broken:
        return "**false alarm**" if caught else "silent"
    if not caught:
        return "missed"
    return ("culprit named" if named else "caught") + (f": `{rules}`" if rules else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = HERE.parent / "target" / "release" / "fdtrace"
    parser.add_argument("--fdtrace", default=str(default), help="the program (default: %(default)s)")
    parser.add_argument("--cc", default=shutil.which("cc"), help="the C compiler (default: %(default)s)")
    parser.add_argument("--only", action="append", help="only this program")
    parser.add_argument("--no-speed", action="store_true", help="do not measure")
    parser.add_argument("--keep", metavar="DIR", help="keep what each tool said there")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    args = parser.parse_args()
    if not shutil.which(args.fdtrace):
        parser.error(f"{args.fdtrace} is not there: build it with `cargo xtask build --release`, or give --fdtrace")
    load = os.getloadavg()[0]
    chosen, missing = tools(args)
    rows, speeds = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for name, broken, about in CASES:
            source = PROGRAMS / name
            if args.only and name not in args.only or is_c(source) and not args.cc:
                continue
            outcomes = []
            for tool in chosen:
                if not tool.applies(source):
                    outcomes.append(None)
                    continue
                command = build(args.cc, source, tool.build, scratch) if is_c(source) else [sys.executable, str(source)]
                try:
                    text = tool.run(command, scratch)
                except subprocess.TimeoutExpired:
                    text = ""
                if args.keep:
                    keep = pathlib.Path(args.keep)
                    keep.mkdir(exist_ok=True)
                    (keep / f"{source.stem}-{re.sub(r'[^a-z]+', '-', tool.name)}.txt").write_text(text)
                outcomes.append(judge(tool, source, text))
            rows.append((name, broken, about, outcomes))
            print(name, *(f"{t.name}: {word(t, source, broken, o)}" for t, o in zip(chosen, outcomes)), sep="\n  ")
        if args.cc and not args.no_speed:
            programs = {kind: build(args.cc, PROGRAMS / "loop.c", kind, scratch) for kind in {t.build for t in chosen}}
            native = Tool("native", lambda command, report: command, "", rounds=200_000)
            for tool in [native, *chosen]:
                if tool.applies(PROGRAMS / "loop.c"):
                    speeds[tool.name] = measure(tool, programs, scratch)
                    print(f"{tool.name}: {speeds[tool.name]:,.0f} ns a round")
    text = page(chosen, missing, rows, speeds, load)
    if args.write:
        PAGE.write_text(text)
    else:
        print(text)


def page(chosen, missing, rows, speeds, load):
    names = [tool.name for tool in chosen]
    out = [
        "# fdtrace and its peers",
        "",
        "<!-- Written by compare/compare.py --write. -->",
        "",
        "The same programs (`compare/programs`) under each tool, and what it made of them: `sudo python3 compare/compare.py`.",
        "*Culprit named*: the tool printed the file and line of the call that is to blame; *caught*: it reported something;",
        "*missed*: it did not. A tool that does not apply to a program has a dash. How a verdict is read from what a tool",
        "prints stands in the script. For fdtrace only findings that are at least `likely` count.",
        "",
        f"Linux {platform.release()}, {platform.machine()}, Python {platform.python_version()}, "
        f"{os.cpu_count()} processors, {time.strftime('%Y-%m-%d')}.",
        "",
        "| program | | " + " | ".join(names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for name, broken, about, outcomes in rows:
        words = [word(tool, PROGRAMS / name, broken, outcome) for tool, outcome in zip(chosen, outcomes)]
        out.append(f"| `{name}` | {about} | " + " | ".join(words) + " |")
    out += ["", "## In figures", "", "| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]

    def count(what, test, of):
        cells = []
        for at in range(len(chosen)):
            judged = [(broken, outcomes[at]) for _, broken, _, outcomes in rows if outcomes[at] is not None]
            judged = [outcome for broken, outcome in judged if broken == of]
            cells.append(f"{sum(map(test, judged))} of {len(judged)}")
        out.append(f"| {what} | " + " | ".join(cells) + " |")

    count("caught", lambda outcome: outcome[0], True)
    count("culprit named", lambda outcome: outcome[1], True)
    count("false alarms", lambda outcome: outcome[0], False)
    if speeds:
        native = speeds["native"]
        cells = [f"{speeds[n] / native:.1f}" if n in speeds else "–" for n in names]
        out.append("| times slower | " + " | ".join(cells) + " |")
        out += [
            "",
            f"The loop that is measured makes five calls on descriptors a round and does nothing else; natively a round takes "
            f"{native:,.0f} ns. Start-up is taken off; medians of three runs.",
            f"The load average was {load:.0f} when it began: above the number of processors, a tool that works beside the "
            "program, as fdtrace does, looks slower than it is.",
        ]
    if missing:
        out += ["", *(f"Not compared: {what}." for what in missing)]
    out += ["", (HERE / "words.md").read_text().rstrip(), ""]
    return "\n".join(out)


if __name__ == "__main__":
    main()
