"""Reads a directory as a training job does: every file once an epoch, in a new order, by several readers at once.

Standard library only. With PyTorch the same directory is ImageFolder("/data/train") under a DataLoader with num_workers=READERS.
"""

import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

EPOCHS = int(os.environ.get("EPOCHS", "3"))
READERS = int(os.environ.get("READERS", "8"))
# Of a Job with completionMode Indexed: each pod has its share of every epoch, and another one in the next.
RANK = int(os.environ.get("JOB_COMPLETION_INDEX", "0"))
WORLD = int(os.environ.get("WORLD_SIZE", "1"))


def files_below(root):
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            yield os.path.join(folder, name)


def read(path):
    size = 0
    with open(path, "rb", buffering=0) as file:
        while part := file.read(1 << 20):
            size += len(part)
    return size


def main(root):
    begun = time.monotonic()
    files = list(files_below(root))
    if not files:
        sys.exit(f"{root}: no files")
    print(f"{len(files)} files listed in {time.monotonic() - begun:.2f} s", flush=True)
    with ThreadPoolExecutor(READERS) as readers:
        for epoch in range(EPOCHS):
            # The same order in all pods, so that their shares do not overlap.
            random.Random(epoch).shuffle(files)
            share = files[RANK::WORLD]
            begun = time.monotonic()
            size = sum(readers.map(read, share))
            took = max(time.monotonic() - begun, 1e-9)
            print(
                f"epoch {epoch + 1}: {len(share)} files, {size / 1e6:.1f} MB in {took:.2f} s:"
                f" {len(share) / took:.0f} files/s, {size / 1e6 / took:.0f} MB/s",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1])
