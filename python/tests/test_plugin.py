"""The plugin in sessions of its own, with a real fdtrace: root, and `$FDTRACE` or an fdtrace on the path."""

import os
import shutil
import subprocess
import sys

import pytest

FDTRACE = os.environ.get("FDTRACE") or shutil.which("fdtrace")
pytestmark = pytest.mark.skipif(not FDTRACE or os.geteuid() != 0, reason="needs fdtrace and root")

BLOG = """
    import os

    def test_before():
        with open("/dev/zero", "rb", 0) as f:
            f.read(1)

    def test_bad():
        f = open("/dev/zero", "rb", 0)
        f.read(1)
        os.close(f.fileno())  # here
        f = None

    def test_after():
        with open("/dev/zero", "rb", 0) as f:
            f.read(1)
"""


def run(pytester, *more):
    options = ["--fdtrace", "--fdtrace-path", FDTRACE, "--fdtrace-wait", "30", "-p", "no:cacheprovider", "--rootdir", str(pytester.path), *more]
    return pytester.runpytest_subprocess(*options)


def test_the_test_that_did_it_fails_and_no_other(pytester):
    pytester.makepyfile(BLOG)
    result = run(pytester)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*test_bad*", "fdtrace: foreign-close (proven)*", "*test_*.py:10: os.close(f.fileno())*"])


def test_what_a_child_process_does_belongs_to_the_test(pytester):
    pytester.makepyfile(
        """
        import subprocess, sys

        GOOD = "import os; fd = os.dup(0); os.close(fd)"
        BAD = "import os; fd = os.dup(0); os.close(fd)\\ntry: os.read(fd, 1)\\nexcept OSError: pass"

        def test_good():
            subprocess.run([sys.executable, "-c", GOOD], check=True)

        def test_bad():
            subprocess.run([sys.executable, "-c", BAD], check=True)
        """
    )
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*use-after-close (proven)*"])


def test_nothing_is_said_of_what_is_in_order(pytester):
    pytester.makepyfile(
        """
        import os

        def test_recycled():
            # What is possible of it: that the second close was meant for the first one's file.
            for _ in range(2):
                fd = os.open("/dev/zero", os.O_RDONLY)
                os.read(fd, 1)
                os.close(fd)
        """
    )
    result = run(pytester, "--fdtrace-fail-on", "possible")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["fdtrace: 0 findings"])


def test_a_failed_test_says_so_first(pytester):
    pytester.makepyfile(
        """
        import os

        def test_bad():
            f = open("/dev/zero", "rb", 0)
            f.read(1)
            os.close(f.fileno())
            assert f.read(1) == b""
        """
    )
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Bad file descriptor*", "*fdtrace*", "fdtrace: foreign-close*"])


def test_under_fdtrace(pytester):
    pytester.makepyfile(BLOG)
    findings = pytester.path / "findings.jsonl"
    session = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--fdtrace-wait", "30"]
    command = [FDTRACE, "--json", findings, "--", *session, "--fdtrace-json", findings]
    ran = subprocess.run(command, cwd=pytester.path, capture_output=True, text=True)
    assert "1 failed, 2 passed" in ran.stdout, ran.stdout + ran.stderr
    assert "foreign-close (proven)" in ran.stdout
    assert ran.returncode == 1


def test_what_cannot_be_had_is_told(pytester):
    pytester.makepyfile("def test(): pass")
    result = pytester.runpytest_subprocess("--fdtrace", "--fdtrace-path", "/nonexistent/fdtrace")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--fdtrace-path*"])
