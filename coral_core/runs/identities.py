"""Identity of the base model on the lanes of a run: asked once, then frozen in the run's folder.

An evolution may run on a machine without GPU, torch or weights, train on one kind of GPU and evaluate on another. The
lanes of each queue therefore report their base model, and their numerics class goes into the digests of their jobs.
`base_model.json` in the run's folder keeps the answers, so that a replay from the store needs no lane.
"""

import logging
from typing import Self

from pydantic import Field

from coral_core.atomic_write import refused_writes, write_atomic
from coral_core.bounded_read import read_model
from coral_core.config import InfraConfig, RunConfig
from coral_core.errors import BaseModelError, ConfigError
from coral_core.frozen import Frozen
from coral_core.jobs.jobs import BaseModelIdentity
from coral_core.lm.base_model import identify
from coral_core.lm.versions import ENGINE_VERSION
from coral_core.lm.vllm_interpreter import vllm_settings
from coral_core.runs.run_folder import RunFolder
from coral_core.untrusted import in_a_line, visible

log = logging.getLogger("coral.evolve")

FILE = "base_model.json"


class Identities(Frozen):
    """The base model on training lanes and on evaluation lanes: of equal content, but each with its own numerics class."""

    training: BaseModelIdentity
    evaluation: BaseModelIdentity

    @classmethod
    def alike(cls, identity: BaseModelIdentity) -> Self:
        """One identity for both queues, for lanes on machines of one kind."""
        return cls(training=identity, evaluation=identity)

    @classmethod
    def here(cls, config: RunConfig) -> Self:
        """The identities for lanes of this machine. Raises as `identify` and `vllm_settings`."""
        training, vllm = identify(config.base_model), vllm_settings(config)
        return (
            cls.alike(training)
            if vllm is None
            else cls(training=training, evaluation=identify(config.base_model, vllm))
        )

    def check(self) -> None:
        """Raise `BaseModelError` if the lanes of the two queues hold different weights."""
        if self.training.content_id != self.evaluation.content_id:
            raise BaseModelError(
                f"base_model.name: {self.training.name}: training lanes have content {self.training.content_id[:12]}, evaluation "
                f"lanes {self.evaluation.content_id[:12]}. Give both pools the same weights, or name a commit with base_model.revision."
            )


class FrozenIdentities(Frozen):
    """Content of `base_model.json`."""

    schema_version: int = 1
    asked: str = Field(description="Name of the lanes that answered (`asked_of`).")
    engine_version: str = Field(description="Engine version of the code that asked.")
    identities: Identities


def asked_of(infra: InfraConfig) -> str:
    """Name of the lanes that `infra` uses; a frozen answer holds for the lanes that gave it only."""
    if infra.executor != "work-pools":
        return "this machine"
    return f"{infra.training.deployment}, {infra.evaluation.deployment}"


def freeze_identities(folder: RunFolder, infra: InfraConfig, identities: Identities) -> None:
    """Write the identities to `base_model.json`, for later sessions of this run.

    Args:
        folder: Folder of the run.
        infra: Names the lanes that answered.
        identities: Their answers.

    Raises:
        StoreError: the file cannot be written.
    """
    answer = FrozenIdentities(asked=asked_of(infra), engine_version=ENGINE_VERSION, identities=identities)
    with refused_writes(folder.path / FILE):
        write_atomic(folder.path / FILE, answer.model_dump_json(indent=1).encode())


def frozen_identities(folder: RunFolder, infra: InfraConfig) -> Identities | None:
    """Read the identities that an earlier session of this run has frozen.

    Args:
        folder: Folder of the run.
        infra: Names the lanes; an answer of other lanes does not count.

    Returns:
        None when the lanes of `infra` were not asked before, or when the file cannot be used.

    Raises:
        ConfigError: the run was begun with another version of the engine.
    """
    try:
        frozen = read_model(folder.path / FILE, FrozenIdentities)
        frozen.identities.check()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, BaseModelError) as error:
        log.warning("%s cannot be used, so lanes are asked again: %s", folder.path / FILE, in_a_line(error))
        return None
    if frozen.engine_version != ENGINE_VERSION:
        raise ConfigError(
            f"{folder.run_id}: was begun with engine {visible(frozen.engine_version)[:40]}, and this version of CORAL-X has engine {ENGINE_VERSION}, which "
            "does not use results of another engine",
            remedy="Do the run anew as a new edition: coral evolve CONFIG --again (its old results stay readable; coral store "
            "clear --other-versions removes them from the store).",
        )
    return frozen.identities if frozen.asked == asked_of(infra) else None
