"""A descriptor closed behind the back of the object that owns it. Run it as `fdtrace -- python3 demo/blog.py`."""
import os

file = open("/dev/zero", "rb")  # The kernel hands out the lowest free number, say 3.
os.close(file.fileno())  # The bug: 3 is closed, and the object believes that it still owns it.

# Number 3 is free, so the second open gets it again. Then the name moves to the new object, the old one is
# freed, and on its way out it closes "its" number 3: the new object's.
file = open("/dev/zero", "rb")
print(file.read(1))  # OSError: [Errno 9] Bad file descriptor, far from the line that caused it.
