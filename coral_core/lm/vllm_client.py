"""The client of an engine of vLLM: a child process under the interpreter of another environment. Imports no torch."""

from pathlib import Path
from typing import Any

from coral_core.config.tree import BaseModelConfig
from coral_core.errors import EngineError
from coral_core.jobs.jobs import BaseModelIdentity, VllmSettings
from coral_core.lm.base_model import find
from coral_core.lm.engine_client import EngineProcess
from coral_core.lm.vllm_interpreter import look, vllm_environment
from coral_core.prompting.choice import may_chat

START = Path(__file__).with_name("vllm_start.py")


class VllmProcess(EngineProcess):
    """An engine of vLLM as a child process. It generates and does not train.

    Args:
        settings: Interpreter and sizes; they hold as long as the process lives.
    """

    killed_error = EngineError("the vLLM engine was ended")

    def __init__(self, settings: VllmSettings) -> None:
        super().__init__()
        self.settings = settings

    def environment(self) -> dict[str, str]:
        return vllm_environment()

    def command(self) -> tuple[list[str], dict[str, str]]:
        # neither the script's folder nor a user's own packages are on its path
        return [self.settings.python, "-s", "-P", str(START)], {}

    def load(self, base: BaseModelConfig) -> BaseModelIdentity:
        """As `Engine.load`. Raises `ConfigError` for an interpreter that cannot be used, before a process starts."""
        look(self.settings.python)
        super().load(base)
        if self.identity.chat is None and may_chat(base):
            # chat templates are rendered by a process of our own environment
            self.identity = self.identity.model_copy(update={"chat": find(base)[0].chat})
        return self.identity

    def _to_load(self, base: BaseModelConfig) -> dict[str, Any]:
        return super()._to_load(base) | {"vllm": self.settings.model_dump(mode="json")}
