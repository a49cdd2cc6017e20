"""What is read and how it is told; needs no fdtrace."""

import json

from pytest_fdtrace import findings


def act(time, **more):
    frame = {"function": "f", "file": "a.py", "line": 4, "source": "os.close(fd)"}
    return {"time": time, "call": "close", "verb": "closed", "python": [frame], "native": [], **more}


def finding(**more):
    made = {
        "type": "finding",
        "rule": "foreign-close",
        "confidence": "proven",
        "severity": "high",
        "message": "fd 3 was closed",
        "advice": "do not",
        "time": 50,
        "culprit": act(30),
        "victim": act(10),
        "root_cause": None,
    }
    made.update(more)
    return made


def test_only_what_is_sure_enough_counts():
    assert findings.counts(finding(), "proven")
    assert not findings.counts(finding(confidence="possible"), "likely")
    assert findings.counts(finding(confidence="possible"), "possible")
    assert not findings.counts(finding(severity="note"), "possible")


def test_the_cause_decides_whose_it_is():
    windows = findings.Windows()
    windows.end(20, "first")
    windows.end(40, "second")
    assert windows.owner(findings.when(finding())) == "second"
    assert windows.owner(findings.when(finding(root_cause=act(15)))) == "first"
    assert windows.owner(41) is None


def test_the_line_that_did_it_is_named():
    text = findings.text(finding())
    assert "foreign-close (proven): fd 3 was closed" in text
    assert "culprit: close at a.py:4: os.close(fd)" in text


def test_half_a_line_waits_for_its_other_half(tmp_path):
    path = tmp_path / "findings.jsonl"
    stream = findings.Stream(str(path))
    assert list(stream.lines()) == []
    whole = json.dumps(finding()) + "\n"
    with open(path, "w") as out:
        out.write(whole + whole[:20])
        out.flush()
        assert len(list(stream.lines())) == 1
        out.write(whole[20:])
        out.flush()
        assert [line["rule"] for line in stream.lines()] == ["foreign-close"]
    assert stream.until(lambda line: True, 0) == ([], False)
    stream.close()


def test_a_mark_disturbs_nothing():
    findings.mark(7)
