"""A child process that yields the numbers below its argument, then fails."""

import sys

from benchmarks.alternation import take_turns


def _count(last: int):
    print("not a result")
    yield from range(last)
    sys.exit(3)


if __name__ == "__main__":
    take_turns(_count(int(sys.argv[1])))
