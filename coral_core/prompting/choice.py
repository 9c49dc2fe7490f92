"""The prompt template that a configuration chooses: ``base_model.prompt``."""

from coral_core.config.text_fields import BUILT_IN_PROMPTS
from coral_core.config.tree import BaseModelConfig
from coral_core.errors import ConfigError
from coral_core.prompting.chat import ChatTurn, in_chat
from coral_core.prompting.own_template import KEY, read_own_template
from coral_core.prompting.templates import PromptTemplate, template


def chosen(base_model: str, choice: str) -> str:
    """What ``base_model.prompt`` stands for, as far as the name tells: ``auto`` is tiny for coral-tiny and the rehearsal.

    Args:
        base_model: Name of the base model.
        choice: ``base_model.prompt``.

    Example:
        >>> chosen("coral-tiny", "auto"), chosen("owner/model", "auto"), chosen("owner/model", "plain")
        ('tiny', 'auto', 'plain')
    """
    return "tiny" if choice == "auto" and base_model.startswith(("coral-tiny", "rehearsal")) else choice


def named_template(config: BaseModelConfig) -> PromptTemplate | None:
    """The built-in template that a configuration names; None where it takes a chat template or a file.

    >>> named_template(BaseModelConfig(name="coral-tiny")).name
    'tiny'
    """
    choice = chosen(config.name, config.prompt)
    return template(choice) if choice in BUILT_IN_PROMPTS and choice not in ("auto", "chat") else None


def may_chat(config: BaseModelConfig) -> bool:
    """True where the base model's chat template may take part."""
    return named_template(config) is None


def resolve_prompt(config: BaseModelConfig, turn: ChatTurn | None) -> PromptTemplate:
    """The prompt template of a configuration.

    Args:
        config: Names the base model and the prompt. A file is read from this machine.
        turn: Chat form of the base model; None where it has no chat template.

    Raises:
        ConfigError: a chat template is needed and the model has none, or the file cannot be used.

    Example:
        >>> resolve_prompt(BaseModelConfig(name="owner/model"), None).name
        'instruct'
    """
    if (named := named_template(config)) is not None:
        return named
    if config.prompt not in BUILT_IN_PROMPTS:
        return read_own_template(config.prompt).resolved(turn, config.name)
    if turn is not None:
        return in_chat(turn)
    if config.prompt == "auto":
        return template("instruct")
    raise ConfigError(
        f"base_model.prompt: chat: {config.name} has no chat template",
        KEY,
        remedy="Choose instruct, plain, auto, or a template of your own (docs/prompts.md).",
    )
