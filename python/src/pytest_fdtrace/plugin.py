"""The hooks of pytest."""

import itertools

import pytest

from .findings import LEVELS, Windows, counts, mark, text, when
from .tracer import CannotTrace, Outside, Tracer


def pytest_addoption(parser):
    group = parser.getgroup("fdtrace", "file descriptors, watched by fdtrace")
    group.addoption("--fdtrace", action="store_true", help="attach fdtrace to this session (needs root or sudo)")
    group.addoption("--fdtrace-json", metavar="FILE", help="this session runs under `fdtrace --json FILE`")
    group.addoption(
        "--fdtrace-fail-on", choices=LEVELS, default="likely", help="how sure a finding must be (default: %(default)s)"
    )
    group.addoption("--fdtrace-path", metavar="PATH", default="fdtrace", help="the program (default: %(default)s)")
    group.addoption(
        "--fdtrace-wait",
        metavar="SECONDS",
        type=float,
        default=5.0,
        help="longest wait for what fdtrace has to say of a test (default: %(default)s)",
    )


def pytest_configure(config):
    asked = config.getoption("fdtrace") or config.getoption("fdtrace_json")
    # The process that only hands out tests to others has none of its own.
    controls = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if not asked or controls or config.getoption("collectonly", False):
        return
    path = config.getoption("fdtrace_json")
    try:
        tracer = Outside(path) if path else Tracer(config.getoption("fdtrace_path"))
    except CannotTrace as error:
        raise pytest.UsageError(f"--fdtrace: {error}") from None
    config.pluginmanager.register(Watch(config, tracer), "fdtrace-watch")


class Watch:
    """One traced session."""

    def __init__(self, config, tracer):
        self.level = config.getoption("fdtrace_fail_on")
        self.patience = config.getoption("fdtrace_wait")
        self.tracer = tracer
        self.numbers = itertools.count(1)
        self.windows = Windows()
        self.late = []
        self.found = 0
        self.lost = 0
        self.silent = False
        # What was done to import the tests is nobody's.
        for finding in self._take(self._pass("before the first test")):
            self.late.append(("before the first test", text(finding)))

    def _pass(self, name):
        """Ends the window of `name`; what was found in it."""
        number = next(self.numbers)
        mark(number)
        ours = lambda line: line["type"] == "mark" and line["number"] == number
        lines, came = self.tracer.stream.until(ours, self.patience)
        for line in filter(ours, lines):
            self.windows.end(line["time"], name)
        self.silent = not came
        return lines

    def _take(self, lines):
        self.lost += sum(line["lost"] for line in lines if line["type"] == "loss")
        found = [line for line in lines if line["type"] == "finding" and counts(line, self.level)]
        self.found += len(found)
        return found

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        outcome = yield
        if call.when == "setup" and call.excinfo is None:
            return
        report = outcome.get_result()
        name = item.nodeid
        own = []
        for finding in self._take(self._pass(name)):
            owner = self.windows.owner(when(finding)) or name
            if owner == name:
                own.append(text(finding))
            else:
                self.late.append((owner, text(finding)))
        if own:
            said = "\n\n".join(own)
            if report.failed:
                report.sections.append(("fdtrace", said))
            else:
                report.outcome = "failed"
                report.longrepr = said

    def pytest_sessionfinish(self, session):
        lines = self._pass("after the last test") + self.tracer.end()
        for finding in self._take(lines):
            self.late.append((self.windows.owner(when(finding)) or "after the last test", text(finding)))
        if self.late and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        if self.late:
            terminalreporter.section("fdtrace: found when the result of its test was out")
            for owner, said in self.late:
                terminalreporter.write_line(f"{owner}\n{said}\n")
        lost = f", {self.lost} events lost" if self.lost else ""
        terminalreporter.write_line(f"fdtrace: {self.found} finding{'' if self.found == 1 else 's'}{lost}")
        if self.silent:
            terminalreporter.write_line("fdtrace: it had not told all when the session ended; see --fdtrace-wait")
