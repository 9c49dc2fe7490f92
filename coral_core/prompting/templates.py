"""Prompt templates: one text for training and generation, with a version that enters every digest."""

from coral_core.errors import ConfigError
from coral_core.frozen import Frozen


class PromptTemplate(Frozen):
    """Text before and after the buggy function in a prompt, and before and after the fixed one in an answer.

    Special tokens are written out, for the tokenizer to parse. Generation stops at any text in `stop`.
    """

    name: str
    version: str
    before: str
    after: str
    answer_before: str = ""
    answer_after: str
    stop: tuple[str, ...] = ()

    def prompt(self, buggy: str) -> str:
        """The prompt for a buggy function.

        >>> TINY.prompt("def f(): ...")
        '<bos>def f(): ...<sep>'
        """
        return f"{self.before}{buggy}{self.after}"

    def answer(self, fixed: str) -> str:
        """The answer that a model is trained to write after `prompt`."""
        return f"{self.answer_before}{fixed}{self.answer_after}"


TINY = PromptTemplate(name="tiny", version="tiny-1", before="<bos>", after="<sep>", answer_after="<eos>")
"""The form in which coral-tiny was pre-trained: buggy text, separator, fixed text, end."""

INSTRUCT = PromptTemplate(
    name="instruct",
    version="instruct-1",
    before=(
        "The following Python code has a bug. Find it and write the whole corrected code, changing no more than needed.\n\n"
        "Buggy code:\n```python\n"
    ),
    after="\n```\n\nCorrected code:\n```python\n",
    answer_after="\n```\n",
    stop=("\n```",),
)
"""For general code models such as CodeLlama: the fence opens the answer and closes it."""

_TEMPLATES = {template.name: template for template in (TINY, INSTRUCT)}


def template(name: str) -> PromptTemplate:
    """The template called `name`.

    Raises:
        ConfigError: there is none.
    """
    try:
        return _TEMPLATES[name]
    except KeyError:
        raise ConfigError(
            f"base_model.prompt: {name}: no such template", remedy=f"Known: auto, {', '.join(_TEMPLATES)}."
        ) from None


def template_for(base_model: str, choice: str) -> PromptTemplate:
    """The prompt template for a base model.

    Args:
        base_model: Name of the base model.
        choice: ``base_model.prompt`` of the configuration: a template's name, or ``auto``.

    Raises:
        ConfigError: there is no template of that name.

    Example:
        >>> template_for("coral-tiny", "auto").name, template_for("codellama/CodeLlama-7b-hf", "auto").name
        ('tiny', 'instruct')
    """
    return template(chosen(base_model, choice))


def chosen(base_model: str, choice: str) -> str:
    """Name of the template: ``auto`` is tiny for coral-tiny and the rehearsal, else instruct.

    Args:
        base_model: Name of the base model.
        choice: A template's name, which is returned as it is, or ``auto``.
    """
    if choice != "auto":
        return choice
    return "tiny" if base_model.startswith(("coral-tiny", "rehearsal")) else "instruct"
