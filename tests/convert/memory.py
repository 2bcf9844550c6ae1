"""Converts in a process of its own and prints the peak memory, as a share of the largest network.

Memory is the anonymous resident one, less what it was after the imports.
"""

import sys
import threading
import time

import jax  # noqa: F401  (what is measured is beyond the imports)

# The imports, before the first measurement.
from convert.__main__ import main  # isort: skip
import convert.to_jax
import convert.verify  # noqa: F401

INTERVAL_SECONDS = 0.002


def anonymous() -> int:
    """Bytes of anonymous resident memory."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def watch(peak: list[int], done: threading.Event) -> None:
    while not done.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(INTERVAL_SECONDS)


if __name__ == "__main__":
    largest = int(sys.argv[1])
    before, peak, done = anonymous(), [0], threading.Event()
    watcher = threading.Thread(target=watch, args=(peak, done))
    watcher.start()
    try:
        main(sys.argv[2:])
    finally:
        done.set()
        watcher.join()
    print(f"{(peak[0] - before) / largest:.3f}")
