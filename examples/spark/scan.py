"""Reads files as Spark reads tables: first whole files from end to end, then of each only the footer and some columns.

Standard library only: footers are found as Parquet has them, and columns are taken to lie evenly in row groups.
"""

import os
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor

CORES = int(os.environ.get("CORES", "4"))
COLUMNS = int(os.environ.get("COLUMNS", "20"))
WANTED = int(os.environ.get("WANTED", "3"))
ROW_GROUP = int(os.environ.get("ROW_GROUP_MIB", "128")) << 20
SPLIT = 128 << 20
# Of a Job with completionMode Indexed: each executor has its share of the files.
RANK = int(os.environ.get("JOB_COMPLETION_INDEX", "0"))
EXECUTORS = int(os.environ.get("EXECUTORS", "1"))


def tables(root):
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            # As Spark: what begins so is none of the data.
            if not name.startswith(("_", ".")):
                path = os.path.join(folder, name)
                yield path, os.stat(path).st_size


def read(path, ranges):
    """The bytes of these ranges, in requests of at most 1 MiB."""
    total = 0
    file = os.open(path, os.O_RDONLY)
    try:
        for begin, end in ranges:
            while begin < end:
                part = len(os.pread(file, min(end - begin, 1 << 20), begin))
                if part == 0:
                    raise EOFError(f"{path} ends at {begin}")
                begin += part
                total += part
    finally:
        os.close(file)
    return total


def splits(files):
    """Pieces of all files, as many as there are tasks of a full scan."""
    for path, size in files:
        for begin in range(0, size, SPLIT):
            yield path, [(begin, min(begin + SPLIT, size))]


def footer(path, size):
    """Where the footer of a Parquet file begins; of another file: its last 64 KiB."""
    with open(path, "rb", buffering=0) as file:
        tail = os.pread(file.fileno(), 8, max(size - 8, 0))
    if tail[4:] == b"PAR1":
        return max(size - 8 - struct.unpack("<I", tail[:4])[0], 0)
    return max(size - (64 << 10), 0)


def columns(files):
    """For each file its footer, and the wanted columns of every row group."""
    for path, size in files:
        end = footer(path, size)
        ranges = [(end, size)]
        for group in range(0, end, ROW_GROUP):
            width = min(ROW_GROUP, end - group) // COLUMNS
            for column in range(WANTED):
                begin = group + column * (COLUMNS // WANTED) * width
                ranges.append((begin, begin + width))
        yield path, ranges


def scan(name, tasks):
    tasks = list(tasks)
    begun = time.monotonic()
    with ThreadPoolExecutor(CORES) as cores:
        size = sum(cores.map(lambda task: read(*task), tasks))
    took = max(time.monotonic() - begun, 1e-9)
    print(f"{name}: {len(tasks)} tasks, {size / 1e6:.1f} MB in {took:.2f} s: {size / 1e6 / took:.0f} MB/s", flush=True)


def main(root):
    files = list(tables(root))[RANK::EXECUTORS]
    if not files:
        sys.exit(f"{root}: no files for executor {RANK}")
    for round in ("first", "second"):
        scan(f"{round} query, {WANTED} of {COLUMNS} columns", columns(files))
    for round in ("first", "second"):
        scan(f"{round} full scan", splits(files))


if __name__ == "__main__":
    main(sys.argv[1])
