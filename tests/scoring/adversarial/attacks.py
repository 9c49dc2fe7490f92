"""Ten classes of attacks. Each names the weakened judge that it gets through."""

from tests.scoring.adversarial.attack import Attack
from tests.scoring.adversarial.containment import FILES, NETWORK, PROCESSES, RESOURCES
from tests.scoring.adversarial.deceptions import LEAKS, LIES, STALL, TAMPERING
from tests.scoring.adversarial.forgeries import FORGERY, REPLAY

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
