"""Chat templates of the kinds that are in use, in short: what each does differently is what matters here."""

from typing import NamedTuple

from coral_core.prompting.chat import ChatTemplate


class Kind(NamedTuple):
    """A chat template, with what must come out of it."""

    text: str
    bos: str | None
    eos: str
    added: tuple[str, ...]
    """Tokens of the tokenizer beside `bos` and `eos`."""
    prompt: str
    """The whole prompt for the question Q."""
    answer: str
    """The whole answer A."""
    takes_system: bool = True

    def template(self) -> ChatTemplate:
        """The template as the files of a tokenizer give it."""
        tokens = {"eos_token": self.eos} | ({} if self.bos is None else {"bos_token": self.bos})
        return ChatTemplate(
            self.text, tuple(sorted(tokens.items())), frozenset({*tokens.values(), *self.added}), "test"
        )


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
KINDS: dict[str, Kind] = {
    # the prompt's end is in the user's turn; an answer begins with a space; system text goes into the question
    "llama-2": Kind(
        "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
        "{% endif %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'].strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        "<s>", "</s>", (), "<s>[INST] Q [/INST]", " A </s>",
    ),
    # a header of special tokens, and an end of turn that is not the end of text
    "llama-3": Kind(
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
        "<|begin_of_text|>", "<|end_of_text|>", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "A<|eot_id|>",
    ),
    # "today" must be the same day on every day
    "llama-3.2": Kind(
        "{{ bos_token }}{% if strftime_now is defined %}{% set day = strftime_now('%d %b %Y') %}{% else %}{% set day = '26 Jul 2024' %}{% endif %}"
        "{% if messages[0]['role'] == 'system' %}{% set text = messages[0]['content'] | trim %}{% set messages = messages[1:] %}"
        "{% else %}{% set text = '' %}{% endif %}{{ '<|sys|>Today: ' + day + '\\n' + text + '<|eot_id|>' }}"
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        "<|begin|>", "<|end|>", ("<|sys|>", "<|user|>", "<|assistant|>", "<|eot_id|>"),
        "<|begin|><|sys|>Today: 26 Jul 2024\n<|eot_id|><|user|>Q<|eot_id|><|assistant|>", "A<|eot_id|>",
    ),
    "chatml": Kind(CHATML, None, "<|endoftext|>", ("<|im_start|>", "<|im_end|>"), "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n", "A<|im_end|>"),
    # a system message of its own; its BOS token begins every turn
    "smollm2": Kind(
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}" + CHATML,
        "<|im_start|>", "<|im_end|>", (), "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n", "A<|im_end|>",
    ),
    # thoughts: switched off by a flag, and empty in past answers
    "qwen3": Kind(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}{% set text = m.content.split('</think>')[-1] %}"
        "{% if loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{{ text.lstrip('\\n') }}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% if enable_thinking is defined and enable_thinking is false %}"
        "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}",
        None, "<|im_end|>", ("<|im_start|>", "<think>", "</think>"),
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", "A<|im_end|>",
    ),
    # thoughts without a flag: what an answer has and the prompt has not is part of the answer
    "thoughts-in-answers": Kind(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + ('<think>\\n\\n</think>\\n\\n' if m.role == 'assistant' else '') + m.content + '<|im_end|>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        None, "<|im_end|>", ("<|im_start|>",), "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n", "<think>\n\n</think>\n\nA<|im_end|>",
    ),
    # the prompt opens a thought that past answers do not have: the whole is no continuation of the prompt
    "deepseek-r1": Kind(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}{% elif m.role == 'assistant' %}"
        "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}",
        "<|begin|>", "<|eos|>", ("<|User|>", "<|Assistant|>"), "<|begin|><|User|>Q<|Assistant|><think>\n\n</think>\n\n", "A<|eos|>",
    ),
    # no system message
    "gemma": Kind(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
        "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>", "\n", "\n\n"),
        "<bos><start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\n", "A<end_of_turn>", takes_system=False,
    ),
    # no BOS token in the text, though the tokenizer has one; the end of text after the last answer
    "phi-3": Kind(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
        "<s>", "<|endoftext|>", ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"), "<|user|>\nQ<|end|>\n<|assistant|>\n", "A<|end|>",
    ),
    # an answer follows without a space; system messages are left out without a word
    "mistral": Kind(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
        "<s>", "</s>", (), "<s>[INST] Q [/INST]", "A</s>", takes_system=False,
    ),
    # line ends between turns, and the generation prompt inside the loop
    "zephyr": Kind(
        "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\\n' + m['content'] + eos_token }}\n{% elif m['role'] == 'system' %}\n"
        "{{ '<|system|>\\n' + m['content'] + eos_token }}\n{% else %}\n{{ '<|assistant|>\\n' + m['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
        "<s>", "</s>", (), "<|user|>\nQ</s>\n<|assistant|>\n", "A</s>",
    ),
    # a text of its own, plain headers, and a flag that is not known
    "deepseek-coder": Kind(
        "{{ bos_token }}You write programs.\n{% for m in messages %}{% if m['role'] == 'user' %}{{ '### Instruction:\\n' + m['content'] + '\\n' }}"
        "{% elif m['role'] == 'assistant' %}{{ '### Response:\\n' + m['content'] + '\\n<|EOT|>\\n' }}{% endif %}{% endfor %}{{ '### Response:' }}",
        "<|begin|>", "<|EOT|>", (), "<|begin|>You write programs.\n### Instruction:\nQ\n### Response:", "\nA\n<|EOT|>", takes_system=False,
    ),
    # ignores the flag and writes a header before an answer
    "no-generation-prompt": Kind(
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}",
        None, "<|eos|>", ("<|user|>", "<|assistant|>", "<|end|>"), "<|user|>Q<|end|><|assistant|>", "A<|end|>",
    ),
    # nothing ends an answer: the model's end token does
    "alpaca": Kind(
        "{% for m in messages %}{% if m.role == 'user' %}{{ '### Instruction:\\n' + m.content + '\\n\\n' }}{% elif m.role == 'assistant' %}"
        "{{ '### Response:\\n' + m.content + '\\n\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}",
        "<s>", "</s>", (), "### Instruction:\nQ\n\n### Response:\n", "A</s>", takes_system=False,
    ),
    # channels, and another token at the end of an answer than at the end of a turn
    "gpt-oss": Kind(
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + ('<|return|>' if loop.last else '<|end|>') }}"
        "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        None, "<|return|>", ("<|start|>", "<|channel|>", "<|message|>", "<|end|>"), "<|start|>user<|message|>Q<|end|><|start|>assistant",
        "<|channel|>final<|message|>A<|return|>",
    ),
    # the tags around an answer that training code looks for
    "generation-tags": Kind(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ '<|bot|>' + m.content + '<|end|>' }}{% endgeneration %}"
        "{% else %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|bot|>' }}{% endif %}",
        None, "<|end|>", ("<|bot|>", "<|user|>"), "<|user|>Q<|end|><|bot|>", "A<|end|>",
    ),
    # messages as lists of parts
    "parts": Kind(
        "{% for m in messages %}{% if m.content is string %}{{ raise_exception('parts are needed') }}{% endif %}"
        "{{ '<|' + m.role + '|>' }}{% for part in m.content %}{{ part['text'] }}{% endfor %}{{ '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        None, "<|end|>", ("<|user|>", "<|assistant|>"), "<|user|>Q<|end|><|assistant|>", "A<|end|>",
    ),
}  # fmt: skip
