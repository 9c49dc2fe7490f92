"""Ten classes of attacks. Each names the weakened judge that it gets through."""

from tests.judge.adversarial.attack import Attack
from tests.judge.adversarial.containment import FILES, NETWORK, PROCESSES, RESOURCES
from tests.judge.adversarial.deceptions import LEAKS, LIES, STALL, TAMPERING
from tests.judge.adversarial.forgeries import FORGERY, REPLAY

ATTACKS: list[Attack] = [
    *FILES,
    *NETWORK,
    *PROCESSES,
    *RESOURCES,
    *FORGERY,
    *REPLAY,
    *LIES,
    *TAMPERING,
    *LEAKS,
    *STALL,
]
