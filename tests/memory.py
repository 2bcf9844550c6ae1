"""Peak anonymous resident memory of a call, without mapped files; use a separate process."""

import threading
import time
from collections.abc import Callable

INTERVAL_SECONDS = 0.002


def anonymous() -> int:
    """Bytes of anonymous resident memory."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def peak_of(call: Callable[[], object]) -> int:
    """Peak bytes during a call, minus those before it."""
    before, peak, done = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, anonymous())
            time.sleep(INTERVAL_SECONDS)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return peak - before
