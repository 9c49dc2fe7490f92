"""Why the ledger is closed, in words, and how an evolution that it holds goes on."""

DAY = "the limit of the day"
EVOLUTION = "the limit of the evolution"
NEVER = "no room for any job"
"""A single job takes more than the limit: waiting for the next day helps nobody."""

FIRST = "until a first job has ended"


def is_passing(why: str) -> bool:
    """Does `why` (of `Ledger.closed`) only hold further jobs beside the first ones, until one of these has ended?"""
    return why.startswith(FIRST)


def way_on(why: str, run_id: str) -> tuple[str, str]:
    """How the evolution goes on that `why` (of `Ledger.closed`) holds: a sentence, and the command that it ends with."""
    key = "gpu_hours" if "GPU hours" in why else "money"
    whose = "day" if why.startswith(DAY) else "evolution"
    if why.startswith(DAY) and NEVER not in why:
        sentence = "It goes on by itself when the day turns (0:00 UTC), or at once with a raised limit:"
        return sentence, f"coral resume {run_id} --set budget.day.{key}=..."
    if why.startswith((DAY, EVOLUTION)):
        return "It goes on with a raised limit:", f"coral resume {run_id} --set budget.{whose}.{key}=..."
    if is_passing(why):
        return "It goes on by itself then; look with:", f"coral progress {run_id}"
    return "It goes on by itself as soon as that can be read again; look with:", "coral health"
