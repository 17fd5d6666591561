# SPDX-License-Identifier: Apache-2.0 OR MIT
# Measures a file system from within a container: prints a line of a name and milliseconds for each thing.
import os, stat, time

def timed(name, work):
    start = time.monotonic()
    found = work()
    print(name, (time.monotonic() - start) * 1000)
    return found

def walk():
    found = []
    for directory, _, names in os.walk("/usr"):
        for name in names:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            if stat.S_ISREG(info.st_mode):
                found.append((info.st_size, path))
    return found

def read():
    for _, path in files:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass

def change():
    with open(largest, "r+b", buffering=0) as file:
        file.write(b"\x7f")

files = timed("cold walk", walk)
largest = max(files)[1]
timed("cold read", read)
files = timed("warm walk", walk)
timed("warm read", read)
timed("copy-up", change)
