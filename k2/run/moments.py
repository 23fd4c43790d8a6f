"""Named moments at which a test may let a process die: the places where being killed could matter.

Enters the name of the place that is being passed; where `K2_DIE_AT` names it, the process is killed as by `kill -9`, without
a word. Places are named rather than timed, so that a test hits the same one on every machine.
"""

import os
import signal

DIE_AT = "K2_DIE_AT"


def moment(name: str) -> None:
    """Pass the place of that name."""
    if os.environ.get(DIE_AT) == name:
        os.kill(os.getpid(), signal.SIGKILL)
