"""Opens files from stacks of all shapes, in several threads at once, and prints for each the stack as Python has it.

Arguments: seed, threads, files a thread, where to put them. Prints lines of JSON: path, task, frames innermost first."""
import asyncio, contextlib, functools, json, os, random, sys, threading

SEED, THREADS, FILES, FOLDER = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]


def task_name():
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    return task and task.get_name()


def frames(frame):
    found = []
    while frame:
        code = frame.f_code
        found.append((code.co_filename, frame.f_lineno, getattr(code, "co_qualname", code.co_name)))
        frame = frame.f_back
    return found


class Walk:
    """A chain of calls of a random shape that ends at an open."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.truth = []
        self.name, self.number = f"{FOLDER}/{seed}", 0

    def hit(self):
        path = f"{self.name}-{self.number}"
        self.number += 1
        fd = os.open(path, os.O_CREAT | os.O_WRONLY); self.truth.append((path, task_name(), frames(sys._getframe())))
        os.close(fd)
        os.unlink(path)

    def go(self, depth):
        if depth <= 0:
            return self.hit()
        return self.random.choice(self.SHAPES)(self, depth - 1)

    def method(self, depth):
        return self.go(depth)

    def over_lines(self, depth):
        return (
            [],
            self.go(
                depth,
            ),
        )

    def closure(self, depth):
        def inner():
            return self.go(depth)

        return inner()

    def comprehension(self, depth):
        return [self.go(depth) for _ in range(1)]

    def generator(self, depth):
        def values():
            yield self.go(depth)

        return list(values())

    def delegated(self, depth):
        def inner():
            yield self.go(depth)

        def outer():
            yield from inner()

        return next(outer())

    def by_c(self, depth):
        return sorted([1], key=lambda _: self.go(depth))

    def partial(self, depth):
        return functools.partial(Walk.go, self)(depth)

    def unicode(self, depth):
        def ἀνοίγω():
            return self.go(depth)

        return ἀνοίγω()

    def text(self, depth):
        exec("def made():\n\n  return walk.go(depth)\nmade()", {"walk": self, "depth": depth})

    def managed(self, depth):
        @contextlib.contextmanager
        def manager():
            self.go(depth)
            yield

        with manager():
            pass

    def caught(self, depth):
        try:
            raise ValueError
        except ValueError:
            return self.go(depth)
        finally:
            depth = 0

    def dunder(self, depth):
        walk = self

        class Thing:
            def __len__(self):
                walk.go(depth)
                return 0

        return len(Thing())

    def classbody(self, depth):
        class Body:
            done = self.go(depth)

        return Body

    SHAPES = [
        method, over_lines, closure, comprehension, generator, delegated, by_c, partial, unicode, text, managed, caught,
        dunder, classbody,
    ]

    def some(self, files):
        for _ in range(files):
            # Now and then deeper than anybody shows.
            self.go(self.random.randrange(10) if self.random.random() < 0.9995 else 200)

    async def awaited(self, depth):
        if depth <= 0:
            await asyncio.sleep(0)
            return self.some(1)
        return await self.awaited(depth - 1)

    async def tasks(self, files):
        while files > 0:
            work = [self.awaited(self.random.randrange(5)) for _ in range(min(files, 7))]
            files -= len(work)
            if self.random.randrange(2):
                asyncio.get_running_loop().call_soon(self.some, 1)
            await asyncio.gather(*[asyncio.create_task(one, name=f"job {number}") for number, one in enumerate(work)])


def run(walk, loops):
    if loops:
        asyncio.run(walk.tasks(FILES))
    else:
        walk.some(FILES)


walks = [Walk(SEED * THREADS + number) for number in range(THREADS)]
threads = [threading.Thread(target=run, args=(walk, number % 2)) for number, walk in enumerate(walks)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for walk in walks:
    for event in walk.truth:
        print(json.dumps(event))
