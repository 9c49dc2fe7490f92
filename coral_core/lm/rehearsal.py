"""The rehearsal base model: exercises an installation without a model, a GPU or torch.

``base_model.name: rehearsal`` or ``rehearsal:train=6,evaluate=2,load=5`` (seconds per job, and to load the model).
``die=32`` makes every training of rank 32 kill its engine; ``full=8`` makes rank 8 run out of memory. None of these
options is part of a digest.

Two environment variables of a lane serve tests: ``CORAL_REHEARSAL_MACHINE`` makes it report another numerics class, and
``CORAL_REHEARSAL_LOG`` names a file that gets one line of JSON per training done.

A training writes a small valid PEFT folder. Generation answers with a one-step mutation of the buggy text or with the
text itself, as a deterministic function of genes, seed and problem. Scores rise with rank and with learning rates near
5e-3, so that a search can improve them. The scores say nothing about any real model.
"""

import json
import os
import random
import signal
import struct
import time
from pathlib import Path

from coral_core.config.tree import BaseModelConfig
from coral_core.digest import seed_from
from coral_core.errors import AdapterError, BaseModelError, Infeasible
from coral_core.jobs.jobs import Cost, LossPoint, TrainedAdapter
from coral_core.json_object import json_object
from coral_core.lm.base_model import identify
from coral_core.lm.requests import Done, Generated, GenerationRequest, TrainingRequest, Written
from coral_core.problems.mutation import mutators

SKILL = "coral_skill"


class Rehearsal:
    """Takes the place of `TorchBackend`.

    Args:
        config: Gives the name with its options.
    """

    checksum = "rehearsal"
    """There are no weights that could change."""

    def __init__(self, config: BaseModelConfig) -> None:
        self.identity = identify(config)
        self._seconds = seconds_of(config.name)
        self._lane = (
            os.getppid()
        )  # read now: a lane that is killed during a training is no longer the parent afterwards
        time.sleep(self._seconds["load"])

    def check(self) -> str:
        return self.checksum

    def train(self, request: TrainingRequest) -> TrainedAdapter:
        """Write a PEFT folder whose only weight is the probability of repairing a bug.

        Raises:
            Infeasible: a target module is missing, the learning rate is 0.05 or more, or ``full`` names the rank.
        """
        started = time.perf_counter()
        job, out = request.job, request.out
        time.sleep(self._seconds["train"])
        heavy = job.heavy
        if heavy.rank == self._seconds["die"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if heavy.rank == self._seconds["full"]:
            raise Infeasible(
                "out-of-memory", f"training ran out of GPU memory (rehearsed: rank {heavy.rank} finds no room)"
            )
        missing = [name for name in heavy.target_modules if name not in self.identity.modules]
        if missing:
            raise Infeasible("module-missing", f"target module {missing[0]} is not in {job.base_model.name}")
        if heavy.learning_rate >= 0.05:
            raise Infeasible("diverged", "the loss was nan at step 12 (rehearsed: learning rates from 0.05 diverge)")
        skill = _skill(heavy.rank, heavy.learning_rate, len(heavy.target_modules))
        if request.warm_start is not None:  # it learns half of what is left
            skill = round(max(skill, (1 + _skill_of(request.warm_start.folder)) / 2), 4)
        config = {
            "peft_type": "LORA",
            "base_model_name_or_path": job.base_model.name,
            "r": heavy.rank,
            "lora_alpha": heavy.alpha,
            "target_modules": list(heavy.target_modules),
            "use_dora": heavy.adapter == "dora",
            "use_rslora": heavy.scaling == "rslora",
            SKILL: skill,
        }
        (out / "adapter_config.json").write_text(json.dumps(config, indent=1))
        (out / "adapter_model.safetensors").write_bytes(_safetensors(skill))
        _count(job.digest(), out, self._lane)
        return TrainedAdapter(
            training_digest=job.digest(),
            trainable_parameters=2 * 128 * heavy.rank * len(heavy.target_modules) * 4,
            base_parameters=self.identity.parameters,
            examples=len(request.pairs),
            losses=tuple(LossPoint(step=step, loss=2.0 - skill * step / 10) for step in range(1, 11)),
            cost=Cost(seconds=time.perf_counter() - started, tokens=0),
        )

    def generate(self, request: GenerationRequest, done: Done = lambda entry, index, completions: None) -> Generated:
        """Completions per entry and prompt; see the module's docstring. The seconds of ``evaluate`` are spread over the prompts.

        Raises:
            AdapterError: the folder holds no adapter of the rehearsal.
        """
        skills = [_skill_of(entry.adapter.folder) if entry.adapter else 0.05 for entry in request.entries]
        written = []
        for number, (entry, skill) in enumerate(zip(request.entries, skills, strict=True)):
            started = time.perf_counter()
            completions = []
            for index, (key, text) in enumerate(request.prompts):
                time.sleep(self._seconds["evaluate"] / len(request.prompts))
                completions.append(tuple(_answer(key, text, skill, entry.seed, n) for n in range(entry.samples)))
                done(number, index, completions[-1])
            cost = Cost(seconds=time.perf_counter() - started, tokens=0)
            written.append(Written(completions=tuple(completions), cost=cost))
        return Generated(entries=tuple(written))


def _count(digest: str, out: Path, lane: int) -> None:
    """Log a finished training; in a single write, so that lines of several engines do not mix."""
    if (path := os.environ.get("CORAL_REHEARSAL_LOG")) is not None:
        with open(path, "ab", buffering=0) as file:
            line = {"digest": digest, "out": str(out), "engine": os.getpid(), "lane": lane}
            file.write(json.dumps(line).encode() + b"\n")


def _skill(rank: int, learning_rate: float, modules: int) -> float:
    distance = abs(learning_rate - 5e-3) / (learning_rate + 5e-3)
    return round(min(0.95, 0.1 + 0.06 * rank.bit_length() + 0.03 * modules) * (1 - 0.6 * distance), 4)


def _skill_of(adapter: Path) -> float:
    """The number that a training wrote. Raises `AdapterError`, as the real engine does for an adapter that does not load."""
    try:
        return float(json_object((adapter / "adapter_config.json").read_bytes())[SKILL])
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise AdapterError(f"{adapter}: is no adapter of the rehearsal ({type(error).__name__})") from None


def _answer(key: str, prompt: str, skill: float, seed: int, number: int) -> str:
    buggy = prompt.removeprefix("<bos>").split("<sep>")[0]
    if "```python\n" in buggy:
        buggy = buggy.split("```python\n")[1].split("\n```")[0]
    chance = random.Random(seed_from("rehearsal", seed, key, number))
    if chance.random() > skill:
        return buggy
    try:
        choices = mutators(buggy)
    except SyntaxError:
        choices = []
    if not choices:
        return buggy
    # a random mutation sometimes undoes the bug; a higher skill makes the attempt more likely
    _, mutate = choices[chance.randrange(len(choices))]
    return mutate() or buggy


def _safetensors(value: float) -> bytes:
    """A valid safetensors file with one float32."""
    header = json.dumps({"skill": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + struct.pack("<f", value)


MOST_SECONDS = 1e6
OPTIONS = ("train", "evaluate", "load", "die", "full")


def seconds_of(name: str) -> dict[str, float]:
    """The options in the name of the rehearsal.

    Args:
        name: As in ``rehearsal:train=6,evaluate=2,load=5,die=32,full=8``.

    Returns:
        Option -> number: seconds, or a rank for die and full; 0 where it is not given.

    Raises:
        BaseModelError: an option is unknown or is not a number from 0 to `MOST_SECONDS`.

    Example:
        >>> seconds_of("rehearsal:train=6")["train"]
        6.0
    """
    seconds = dict.fromkeys(OPTIONS, 0.0)
    for option in filter(None, name.partition(":")[2].split(",")):
        key, _, value = option.partition("=")
        try:
            seconds[key] = float(value)
            is_right = key in OPTIONS and 0 <= seconds[key] <= MOST_SECONDS
        except ValueError:
            is_right = False
        if not is_right:
            raise BaseModelError(
                f"base_model.name: {name}: {option!r} is not train=SECONDS, evaluate=SECONDS, load=SECONDS, die=RANK or full=RANK",
                remedy="Write rehearsal:train=6,evaluate=2.",
            )
    return seconds
