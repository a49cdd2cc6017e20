"""Line tables of real code, with the line of every instruction as the interpreter itself gives it.

    python3.X lines.py sample > lines/3.X.txt    the checked-in fixtures, some dozens of code objects
    python3.X lines.py all                       every code object of the standard library, for the exhaustive test

One code object per line: first line, table in hexadecimal, then `offset:line` for each offset (in bytes) where the line
changes, `-` for none, and `offset:end` for the length of the code. Runs on 3.6 and later.
"""
import dis
import os
import sys
import sysconfig
import types
import warnings


def lines_of(code):
    """The line at each code unit."""
    units = len(code.co_code) // 2
    if hasattr(code, "co_positions"):
        return [position[0] for position in code.co_positions()]
    if hasattr(code, "co_lines"):
        lines = [None] * units
        for start, end, line in code.co_lines():
            for unit in range(start // 2, end // 2):
                lines[unit] = line
        return lines
    lines = [code.co_firstlineno] * units
    for start, line in dis.findlinestarts(code):
        lines[start // 2 :] = [line] * (units - start // 2)
    return lines


def table_of(code):
    return code.co_linetable if sys.version_info >= (3, 10) else code.co_lnotab


def dump(code):
    runs = []
    last = 0
    lines = lines_of(code)
    for unit, line in enumerate(lines):
        if line != last:
            runs.append("%d:%s" % (2 * unit, "-" if line is None else line))
            last = line
    runs.append("%d:end" % (2 * len(lines)))
    print(code.co_firstlineno, table_of(code).hex() or "-", ",".join(runs))


def nested(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from nested(constant)


def compiled(path):
    try:
        with open(path, "rb") as file:
            return list(nested(compile(file.read(), path, "exec")))
    except (SyntaxError, ValueError, UnicodeError, RecursionError, OSError):
        return []


# Steps of more than 127 and 255, forwards and backwards; lines without instructions and the reverse.
SYNTHETIC = "\n".join(
    ["def far(a):", " x = (a,"]
    + ["  #"] * 300
    + ["  a + " + " + ".join(["a"] * 300) + ","]
    + ["  #"] * 200
    + ["  max("]
    + ["  #"] * 150
    + ["  a))", " for i in (", "  x", " ):", "  try:", "   with i as y:", "    del y", "  except E as e:", "   pass"]
    + ["  finally:", "   del i", " return lambda: (yield)"]
)


def sample():
    for code in nested(compile(SYNTHETIC, "synthetic", "exec")):
        dump(code)
    library = sysconfig.get_path("stdlib")
    for module in ("argparse", "dis", "selectors", "contextlib", "asyncio/events", "asyncio/tasks", "json/decoder"):
        codes = [code for code in compiled(os.path.join(library, module + ".py")) if 20 < len(table_of(code)) < 250]
        for code in codes[:: max(1, len(codes) // 6)]:
            dump(code)


def everything():
    for folder, folders, files in os.walk(sysconfig.get_path("stdlib")):
        folders.sort()
        for file in sorted(files):
            if file.endswith(".py"):
                for code in compiled(os.path.join(folder, file)):
                    dump(code)


warnings.simplefilter("ignore")
sys.setrecursionlimit(5000)
{"sample": sample, "all": everything}[sys.argv[1]]()
