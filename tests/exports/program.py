"""What the exports are tried on: hostile names, threads, children, a stale close, and as many generations as asked for."""
import os
import sys
import tempfile
import threading

folder = tempfile.mkdtemp()
HOSTILE = [
    b"</script><img src=x onerror=document.title='owned'>",
    b"\x1b[2J\x1b]0;owned\x07",
    "\u202egpj.exe\u2066\u200b".encode(),
    b"invalid \xff\xfe utf-8",
    b"=cmd|'/c calc'!A1",
    b"line\nbreak\ttab \"quote\" 'apostrophe', comma; back\\slash",
    b"${jndi:x} {{7*7}} %0A::error::owned",
    b"%s%n<!--",
]
for name in HOSTILE:
    fd = os.open(os.path.join(os.fsencode(folder), name.replace(b"/", b"\xe2\x88\x95")), os.O_CREAT | os.O_WRONLY)
    os.close(fd)
# As long as a path can be: 4095 bytes.
os.close(os.open("/" + "./" * 2043 + "dev/null", os.O_RDONLY))

# The stale close.
first = open("/dev/zero", "rb", buffering=0)
os.close(first.fileno())
first = open("/dev/zero", "rb", buffering=0)
try:
    first.read(1)
except OSError:
    pass


def churn(times):
    for _ in range(times):
        pair = os.pipe()
        copy = os.dup(pair[0])
        for fd in (*pair, copy):
            os.close(fd)


def child():
    if os.fork() == 0:
        if os.fork() == 0:
            churn(20)
            os._exit(0)
        os.wait()
        churn(20)
        os._exit(0)
    os.wait()


threads = [threading.Thread(target=churn, args=(int(sys.argv[1]) // 6,)) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for _ in range(3):
    child()
open_at_the_end = os.open("/dev/null", os.O_RDONLY)
os._exit(0)
