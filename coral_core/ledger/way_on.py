"""Why the ledger is closed, in words, and how an evolution that it holds goes on."""

DAY = "the limit of the day"
EVOLUTION = "the limit of the evolution"


def way_on(why: str, run_id: str) -> tuple[str, str]:
    """How the evolution goes on that `why` (of `Ledger.closed`) holds: a sentence, and the command that it ends with."""
    key = "gpu_hours" if "GPU hours" in why else "money"
    if why.startswith(DAY):
        sentence = "It goes on by itself when the day turns (0:00 UTC), or at once with a raised limit:"
        return sentence, f"coral resume {run_id} --set budget.day.{key}=..."
    if why.startswith(EVOLUTION):
        return "It goes on with a raised limit:", f"coral resume {run_id} --set budget.evolution.{key}=..."
    return "It goes on by itself as soon as that can be read again; look with:", "coral health"
