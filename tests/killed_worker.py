"""tools/train.py, whose worker 1 is killed in its first life, when it is about to write step 5."""

import importlib.util
import os
import signal
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("train_script", Path(__file__).parents[1] / "tools" / "train.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
save = script.save_checkpoint
first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"


def save_or_die(path, model, optimizer, *, settings, step=None, epoch=None):
    if first_life and model.group.rank == 1 and step is not None and step.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)  # nothing is tidied up
    return save(path, model, optimizer, settings=settings, step=step, epoch=epoch)


if __name__ == "__main__":
    script.save_checkpoint = save_or_die
    script.main(sys.argv[1:])
