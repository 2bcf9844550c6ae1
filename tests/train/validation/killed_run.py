"""`python -m train` that kills itself around the save of a step: MOMENT STEP, then arguments."""

import os
import signal
import sys
from unittest import mock

from train.__main__ import main
from train.runs.saving import Saver

# Measured but not saved; the checkpoint in flight; saved, and the ones it replaces removed.
MOMENTS = ("measured", "saving", "replaced")


def killing(moment: str, at: int):
    save = Saver.save

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def saving(saver: Saver, step: int, *args, **settings) -> bool:
        if step == at and moment == "measured":
            assert settings["numbers"]
            die()
        saved = save(saver, step, *args, **settings)
        if step == at and moment == "saving":
            die()
        if step == at and moment == "replaced":
            saver.wait()
            die()
        return saved

    return saving


if __name__ == "__main__":
    with mock.patch.object(Saver, "save", killing(sys.argv[1], int(sys.argv[2]))):
        main(sys.argv[3:])
