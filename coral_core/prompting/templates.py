"""Prompt templates: one text for training and generation, with a version that enters every digest.

A template is the text around the code, and nothing else: what is trained on is what is asked. Chat templates
(coral_core/prompting/chat.py) and own templates (coral_core/prompting/own_template.py) are reduced to this form before a
run starts, so that jobs carry it and lanes neither render anything nor read a file.
"""

from functools import lru_cache

from coral_core.digest import digest
from coral_core.errors import ConfigError
from coral_core.frozen import Frozen


class PromptTemplate(Frozen):
    """Text before and after the buggy function in a prompt, and before and after the fixed one in an answer.

    Special tokens are written out, for the tokenizer to parse.

    Attributes:
        name: Kind of the template: tiny, instruct, plain, chat or own. Not part of the version.
        end: Text of the token that ends an answer; it is trained, and it ends a completion. Empty: none but the model's own.
        stop: Texts that end a completion.
        add_bos: The BOS token is put in front of a prompt that does not begin with it. False where the text holds all
            special tokens, as that of a chat template does.
    """

    name: str
    before: str
    after: str
    answer_before: str = ""
    answer_after: str
    end: str = ""
    stop: tuple[str, ...] = ()
    add_bos: bool = True

    @property
    def version(self) -> str:
        """Name of the content, for digests: fixed for built-in templates, otherwise a digest of all texts.

        >>> INSTRUCT.version
        'instruct-1'
        """
        return _VERSIONS.get(self) or _content_version(self)

    def prompt(self, buggy: str) -> str:
        """The prompt for a buggy function.

        >>> TINY.prompt("def f(): ...")
        '<bos>def f(): ...<sep>'
        """
        return f"{self.before}{buggy}{self.after}"

    def answer(self, fixed: str) -> str:
        """The answer that a model is trained to write after `prompt`, with the token that ends it."""
        return f"{self.answer_before}{fixed}{self.answer_after}{self.end}"


@lru_cache(maxsize=64)
def _content_version(template: PromptTemplate) -> str:
    return f"text-{digest(template.model_dump(mode='json', exclude={'name'}, exclude_defaults=True))[:16]}"


TINY = PromptTemplate(name="tiny", before="<bos>", after="<sep>", answer_after="<eos>")
"""The form in which coral-tiny was pre-trained: buggy text, separator, fixed text, end."""

INSTRUCT = PromptTemplate(
    name="instruct",
    before=(
        "The following Python code has a bug. Find it and write the whole corrected code, changing no more than needed.\n\n"
        "Buggy code:\n```python\n"
    ),
    after="\n```\n\nCorrected code:\n```python\n",
    answer_after="\n```\n",
    stop=("\n```",),
)
"""For code models without a chat template: the fence opens the answer and closes it."""

PLAIN = PromptTemplate(
    name="plain",
    before="# Buggy\n",
    after="\n\n# Fixed\n",
    answer_after="\n\n# Buggy\n",
    stop=("\n# Buggy",),
)
"""For base models that follow no instructions: a file of buggy and fixed code in turn. The next header ends the answer."""

_TEMPLATES = {template.name: template for template in (INSTRUCT, PLAIN, TINY)}
_VERSIONS = {TINY: "tiny-1", INSTRUCT: "instruct-1", PLAIN: "plain-1"}


def template(name: str) -> PromptTemplate:
    """The built-in template called `name`.

    Raises:
        ConfigError: there is none.
    """
    try:
        return _TEMPLATES[name]
    except KeyError:
        raise ConfigError(
            f"base_model.prompt: {name}: no built-in template", remedy=f"Known: {', '.join(_TEMPLATES)}."
        ) from None
