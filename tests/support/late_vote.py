"""``rcgm train`` as one of two processes, of which the first holds back each vote after its first one.

It does so until the other process is at its end, or for five seconds: a vote that the other left under way comes in
while its interpreter is taken down, by which the process is aborted.

    python -m tests.support.late_vote FLAG ARGUMENTS...

``FLAG`` is a file by which the second tells the first that it is at its end.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from pathlib import Path

from rcgm.cli import main
from rcgm.training.interrupts import StopRequest

PATIENCE = 5


def hold_votes_back(flag: Path) -> None:
    agreed, votes = StopRequest.agreed, []

    def late(self: StopRequest) -> bool:
        votes.append(None)
        end = time.monotonic() + PATIENCE
        while len(votes) > 1 and not flag.exists() and time.monotonic() < end:
            time.sleep(0.001)
        return agreed(self)

    StopRequest.agreed = late


if __name__ == "__main__":
    flag = Path(sys.argv[1])
    if os.environ["RANK"] == "0":
        hold_votes_back(flag)
    else:
        atexit.register(flag.touch)
    sys.exit(main(["train", *sys.argv[2:]]))
