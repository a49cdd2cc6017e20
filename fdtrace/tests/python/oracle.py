"""Blocks in known places and says where: the truth against which the walk of Python frames is tested.

Prints one line of JSON with, for every thread, its frames as the interpreter itself sees them (innermost first), its
asyncio task, and types and objects that own descriptors with their addresses. Then everything stands still until
standard input ends. Runs on 3.6 and later.
"""
import abc
import asyncio
import functools
import io
import json
import mmap
import os
import select
import socket
import sys
import threading
import time

PIPE, _ = os.pipe()
ENTERED = threading.Event()
SETTLED = threading.Event()
SUB = os.pipe()
TASKS = {}


def block(*_):
    ENTERED.set()
    os.read(PIPE, 1)


# Plain frames.


def nested():
    def inner(argument):
        value = [
            argument,
            block(
                argument
            ),
        ]
        return value

    class Holder:
        def method(self):
            return inner(self)

        @classmethod
        def made(cls):
            return cls().method()

        @property
        def attribute(self):
            return self.made()

    return Holder().attribute


def recursion(depth=400):
    if depth:
        recursion(depth - 1)
    else:
        block()


def generators():
    def leaf():
        yield 1
        block()

    def middle():
        yield from leaf()

    for _ in middle():
        pass


def boundaries():
    def compare(left, right):
        block()
        return 0

    sorted([2, 1], key=functools.cmp_to_key(compare))


def comprehension():
    return [[block(x) for x in (y,)] for y in "ab"]


def lambdas():
    return list(map(lambda x: (lambda y: block(y))(x), "ab"))


def handlers():
    try:
        try:
            raise KeyError("no")
        except KeyError:
            raise ValueError from None
        finally:
            sum(())
    except ValueError as error:
        with io.StringIO() as _:
            block(error)


def destructor():
    class Dying:
        def __del__(self):
            block()

    dying = Dying()
    dying = None  # noqa
    return dying


def compiled():
    # Latin, Greek and astral names, and a file name that is not UTF-8.
    source = "def größe():\n def λ():\n  def 𝔘():\n   block()\n  𝔘()\n λ()\n\n\ngröße()\n"
    exec(compile(source, os.fsdecode(b"b\xfccher/\xe6\x97\xa5.py"), "exec"), {"block": block})


def distances():
    # Steps of lines and addresses that need more than one entry of a table, forwards and backwards.
    lines = ["def far(flag):", " x = (flag,"]
    lines += ["  #"] * 300 + ["  flag + " + " + ".join(["flag"] * 400) + ","]
    lines += ["  #"] * 200 + ["  block(", "  #"] + ["  #"] * 150 + ["  flag))"] + [" return x", "far(1)"]
    exec(compile("\n".join(lines), "ascii.py", "exec"), {"block": block})


def class_body():
    class Body:
        x = 1
        y = block()

    return Body


def greenlets():
    import greenlet

    def other():
        def deep():
            block()

        deep()

    def first():
        greenlet.greenlet(other).switch()

    greenlet.greenlet(first).switch()


def ended_generator():
    def numbers():
        yield block()

    async def coroutine():
        next(numbers())

    try:
        coroutine().send(None)
    except StopIteration:
        pass


# Tasks. The thread notes the task's address, and its name unless asking for the name would change how it is kept.


def note(name):
    current = getattr(asyncio, "current_task", None) or asyncio.Task.current_task
    TASKS[threading.get_ident()] = {"at": id(current()), "name": name}


def run(coroutine, loop=None):
    loop = loop or asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(coroutine)


def named(name):
    async def body():
        await asyncio.sleep(0)
        note(name)
        block()

    loop = asyncio.new_event_loop()
    arguments = {"name": name} if sys.version_info >= (3, 8) else {}
    run(loop.create_task(body(), **arguments), loop)


def default_name():
    async def nothing():
        pass

    async def body(name):
        note(name)
        block()

    loop = asyncio.new_event_loop()
    before = loop.create_task(nothing())
    expected = None
    if sys.version_info >= (3, 8):
        expected = "Task-%d" % (int(before.get_name().split("-")[1]) + 1)
    run(body(expected), loop)


def asked_name():
    async def body():
        current = getattr(asyncio, "current_task", None) or asyncio.Task.current_task
        note(current().get_name() if sys.version_info >= (3, 8) else None)
        block()

    run(body())


def woken():
    async def inner():
        await asyncio.sleep(0.01)
        note("woken" if sys.version_info >= (3, 8) else None)
        block()

    async def body():
        current = getattr(asyncio, "current_task", None) or asyncio.Task.current_task
        if sys.version_info >= (3, 8):
            current().set_name("woken")
        await inner()

    run(body())


def subclass_task():
    class MyTask(asyncio.Task):
        pass

    async def body():
        if sys.version_info >= (3, 8):
            asyncio.current_task().set_name(12345678901234567890)
        note("12345678901234567890" if sys.version_info >= (3, 8) else None)
        block()

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    run(MyTask(body(), loop=loop), loop)


def plain_callback():
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.call_soon(block)
    loop.run_forever()


def eager():
    async def inner():
        # Before 3.14 nothing tells which of the two tasks runs, so none must be named.
        if sys.version_info >= (3, 14):
            note("inner")
        block()

    async def body():
        asyncio.current_task().set_name("outer")
        await asyncio.get_running_loop().create_task(inner(), name="inner")

    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    run(body(), loop)


def subinterpreter():
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    ENTERED.set()
    script = "import os\n\nos.write(%d, b'x')\nos.read(%d, 1)\n" % (SUB[1], PIPE)
    # Two interpreters know this thread; its frames are those of the one that runs.
    created = interpreters.create()
    (getattr(interpreters, "exec", None) or interpreters.run_string)(created, script)


def left_subinterpreter():
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    created = interpreters.create()
    (getattr(interpreters, "exec", None) or interpreters.run_string)(created, "import os")
    block()


def has_subinterpreters():
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            return bool(__import__(name))
        except ImportError:
            pass
    return False


def scenarios():
    yield from [nested, recursion, generators, boundaries, comprehension, lambdas, handlers, destructor]
    yield from [compiled, distances, class_body, ended_generator]
    for name in ("worker", "gr\xf6\xdfe", "\u65e5\u672c", "\U0001f40d task", "x" * 300, ""):
        scenario = functools.partial(named, name if sys.version_info >= (3, 8) else None)
        scenario.__name__ = "named %a" % name
        yield scenario
    yield from [default_name, asked_name, woken, subclass_task, plain_callback]
    if sys.version_info >= (3, 12):
        yield eager
    try:
        import greenlet  # noqa

        yield greenlets
    except ImportError:
        pass
    if has_subinterpreters():
        yield left_subinterpreter
        yield subinterpreter


def describe(frame):
    frames = []
    while frame is not None:
        code = frame.f_code
        frames.append(
            {
                "file": list(code.co_filename.encode("utf-8", "surrogateescape")),
                "name": getattr(code, "co_qualname", code.co_name),
                "line": frame.f_lineno,
                "offset": frame.f_lasti,
            }
        )
        frame = frame.f_back
    return frames


# Types and objects.


class Mixin:
    pass


class SubFile(io.FileIO):
    pass


class SlottedFile(io.FileIO):
    __slots__ = ("extra",)


class MixedFile(Mixin, io.FileIO):
    pass


class AbstractFile(io.FileIO, metaclass=abc.ABCMeta):
    pass


class DeepSocket(type("Between", (socket.socket,), {})):
    pass


class MixedSocket(Mixin, socket.socket):
    pass


class OwnMeta(abc.ABCMeta):
    pass


class MetaSocket(socket.socket, metaclass=OwnMeta):
    pass


def types():
    owners = {
        "FileIo": [io.FileIO, SubFile, SlottedFile, MixedFile, AbstractFile],
        "Socket": [socket.socket, socket.SocketType, DeepSocket, MixedSocket, MetaSocket],
        "Epoll": [select.epoll],
        "Other": [object, type, dict, int, abc.ABCMeta, OwnMeta, Mixin, mmap.mmap, io.BytesIO, io.BufferedReader],
    }
    owners["Other"] += [io.TextIOWrapper, io.RawIOBase, type("_io.FileIO", (), {}), type("FileIO", (dict,), {})]
    owners["NotAType"] = [None, 1, "text", types, Mixin(), io, {}, [], TASKS]
    return [[kind, id(each), getattr(each, "__name__", "")] for kind in owners for each in owners[kind]]


KEEP = []


def objects():
    path = sys.executable
    KEEP.extend([io.FileIO(path), SubFile(path), AbstractFile(path), MixedFile(path), open(path), open(path, "rb")])
    KEEP.extend([socket.socket(), DeepSocket(), MetaSocket(), select.epoll()])
    owners = [{io.TextIOWrapper: lambda o: o.buffer.raw, io.BufferedReader: lambda o: o.raw}.get(type(o), lambda o: o)(o) for o in KEEP]
    return [[id(owner), owner.fileno()] for owner in owners]


def main():
    sys.setrecursionlimit(2000)
    threads = {}
    for scenario in scenarios():
        ENTERED.clear()
        thread = threading.Thread(target=scenario, name=scenario.__name__, daemon=True)
        thread.start()
        if not ENTERED.wait(20):
            sys.exit("%s did not block" % scenario.__name__)
        threads[thread.ident] = thread.name
    report = threading.Thread(target=tell, args=(threads, threading.get_ident()), daemon=True)
    report.start()
    SETTLED.set()
    os.read(0, 1)
    os._exit(0)


def tell(threads, main_ident):
    threads[main_ident] = "main"
    last = None
    SETTLED.wait()
    if "subinterpreter" in threads.values():
        os.read(SUB[0], 1)
    while True:
        time.sleep(0.2)
        now = {ident: describe(frame) for ident, frame in sys._current_frames().items() if ident in threads}
        if now == last:
            break
        last = now
    for ident in threads:
        if threads[ident] == "subinterpreter":
            now[ident] = [{"file": None, "name": "<module>", "line": 4, "offset": None}]
    truth = {
        "version": list(sys.version_info[:3]),
        "threads": [
            {"name": threads[ident], "id": ident, "frames": frames, "task": TASKS.get(ident)}
            for ident, frames in now.items()
        ],
        "types": types(),
        "objects": objects(),
    }
    sys.stdout.write(json.dumps(truth) + "\n")
    sys.stdout.flush()
    threading.Event().wait()


main()
