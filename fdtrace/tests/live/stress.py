"""Objects that own descriptors, and mistakes with them, at random. Prints what a tracer has to find, and nothing else.

Arguments: seed, steps, 0 or 1: make mistakes."""
import io, os, random, select, socket, sys, tempfile, threading

THREADS = 4

class File(io.FileIO):
    pass

class Sock(socket.socket):
    pass

rnd = random.Random(int(sys.argv[1]))
mistakes = sys.argv[3] == "1"
folder = tempfile.mkdtemp()
living = []      # objects that own their number
orphans = []     # objects whose number was closed behind their back: (object, number)
truth = []

def make():
    kind = rnd.randrange(10)
    if kind == 0:
        return io.FileIO("/dev/null")
    if kind == 1:
        return File(os.path.join(folder, "f"), "w")
    if kind == 2:
        return open("/dev/zero", "rb", buffering=0)
    if kind == 3:
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return s
    if kind == 4:
        s = Sock(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return s
    if kind == 5:
        e = select.epoll()
        e.poll(0)
        return e
    if kind == 6:
        return os.fdopen(os.open("/dev/null", os.O_RDONLY), "rb", buffering=0)
    if kind == 7:
        return open("/dev/zero")
    if kind == 8:
        return open(os.path.join(folder, "g"), "w+b")
    s = socket.socket()
    fd = s.detach()
    del s
    return socket.socket(fileno=fd)

def deep(n, work):
    return deep(n - 1, work) if n else work()

def is_open(fd):
    try:
        os.fstat(fd)
        return True
    except OSError:
        return False

def at(obj):
    """The address of the object that holds the number: of a buffered or a text file the innermost."""
    obj = getattr(obj, "buffer", obj)
    return id(getattr(obj, "raw", obj))

def owner_of(fd):
    for obj in living:
        if obj.fileno() == fd:
            return obj

def close_orphan(obj, fd):
    hit = owner_of(fd)
    if hit is not None:
        truth.append(("stale-close", fd, at(obj)))
        living.remove(hit)
        orphans.append((hit, fd))
    try:
        obj.close()
    except OSError:
        pass

def step():
    what = rnd.random()
    if what < 0.5 or not living:
        if len(living) < 40:
            living.append(deep(rnd.randrange(5), make))
    elif what < 0.75:
        obj = living.pop(rnd.randrange(len(living)))
        if rnd.random() < 0.5:
            deep(rnd.randrange(5), obj.close)
        del obj
    elif what < 0.8:
        io.FileIO(rnd.choice(living).fileno(), closefd=False)
    elif what < 0.83:
        os.close(os.open("/dev/null", os.O_RDONLY))
    elif what < 0.85:
        s = socket.socket()
        os.close(s.detach())
        del s
    elif what < 0.87:
        files = [obj for obj in living if isinstance(obj, io.FileIO)]
        if files:
            obj, null = rnd.choice(files), os.open("/dev/null", os.O_RDONLY)
            os.dup2(null, obj.fileno())
            os.close(null)
            del obj
        del files
    elif mistakes and what < 0.94:
        obj = living.pop(rnd.randrange(len(living)))
        fd = obj.fileno()
        truth.append(("foreign-close", fd, at(obj)))
        os.close(fd)
        orphans.append((obj, fd))
        del obj
        # Something else in between: closes of neighbouring numbers in a row are a clean-up.
        living.append(io.FileIO("/dev/null"))
    elif mistakes and orphans:
        obj, fd = orphans.pop(rnd.randrange(len(orphans)))
        close_orphan(obj, fd)
        del obj

steps = int(sys.argv[2])
turn = 0
cond = threading.Condition()

def worker(me):
    """Takes a step when it is its turn: what one thread opens another closes, and still there is one truth."""
    global steps, turn
    while steps:
        with cond:
            cond.wait_for(lambda: turn == me or not steps)
            if steps:
                steps -= 1
                step()
                turn = rnd.randrange(THREADS)
            cond.notify_all()

others = [threading.Thread(target=worker, args=(me,)) for me in range(1, THREADS)]
for other in others:
    other.start()
worker(0)
for other in others:
    other.join()

if not mistakes:
    assert not truth
for rule, fd, at in truth:
    print(rule, fd, "%#x" % at)
sys.stdout.flush()
os._exit(0)
