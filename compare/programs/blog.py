"""The program of the README: closed behind an object's back, and the object closes its successor's file."""
import os

f = open("/dev/zero", "rb", 0)
f.read(1)
os.close(f.fileno())  # culprit

f = open("/dev/zero", "rb", 0)
f.read(1)
