"""Writes completions: prompts are read in groups, rows that end are replaced by waiting ones.

Within one numerics class a row's bits depend on its adapter, its prompt, its light genes, its seed and the configuration
(`coral_core.lm.decoding`). Sampling draws from a stream per row, seeded by (job seed, problem, sample). Neither the other
prompts and entries of a request nor their order change a completion. Entries with one adapter share its merging, the
reading of the prompts, and the batch.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from coral_core.errors import BaseModelError, ConfigError, Infeasible
from coral_core.jobs.jobs import Cost
from coral_core.lm.decoding import (
    Padded,
    Shapes,
    Slots,
    Start,
    filled,
    has_experts,
    padding_changes_nothing,
    shapes_for,
)
from coral_core.lm.loaded_model import LoadedModel, Vocabulary, memory_is_evidence, peak_memory_mb
from coral_core.lm.requests import AdapterFolder, Done, Generated, GenerationRequest, Written
from coral_core.lm.sampling import NotFiniteError, Row, choose, penalised_tokens, stream


def generate(base: LoadedModel, request: GenerationRequest, done: Done | None = None) -> Generated:
    """Write the completions that `request` asks for.

    Args:
        base: The loaded base model; it is restored afterwards.
        request: Prompts, batch shape, and entries: adapter, light genes, samples per prompt and seed.
        done: Called once per entry and prompt, as soon as all its samples are written; in any order. The texts are provisional
            until `generate` returns: a later error discards them.

    Returns:
        Per entry and prompt, one completion per sample, without special tokens; and the cost of each entry.

    Raises:
        AdapterError: an adapter does not load exactly, or does not fit its genes.
        BaseModelError: the logits of the bare base are not finite.
        ConfigError: a prompt is longer than `shape.prompt_length`, or prompt and answer exceed the model's positions.
        Infeasible: memory ran out, or the logits of an adapted model are not finite.
    """
    started, cpu = time.perf_counter(), time.process_time()
    shape = request.shape
    prompts = [base.encode(text, request.add_bos) for _, text in request.prompts]
    longest = max(map(len, prompts), default=0)
    if longest > shape.prompt_length:
        raise ConfigError(
            f"generation.prompt_length {shape.prompt_length} is too short: a prompt has {longest} tokens. Raise it to {longest}."
        )
    limit = max(entry.light.token_limit for entry in request.entries)
    base.check_length(
        longest + 1, "problems.longest", "Leave longer functions out, or choose a model with a longer context."
    )
    base.check_length(longest + limit, "genes.light.token_limit")
    writing = Writing(base, request, prompts, done)
    with memory_is_evidence("generation"), torch.inference_mode():
        for width, members in _by_width(request).items():
            shapes = _shapes(base, shape.batch_size, width) if prompts else None
            for adapter, numbers in members.items():
                with _finite(base, adapter), base.adapted(adapter, shape.merge) as model:
                    if shapes is None:
                        rows = 1 if has_experts(base.model.config.get_text_config()) else shape.batch_size
                        writing.by_batches(Padded(model, base.pad, rows, shape.prompt_length), numbers)
                    else:
                        writing.by_slots(Slots(model, base.pad, shapes, _prefix(base, request)), numbers)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    return writing.generated(Cost(seconds=seconds, cpu_seconds=cpu_seconds, peak_memory_mb=peak_memory_mb(base.device)))


Members = dict[AdapterFolder | None, list[int]]
"""Adapter -> numbers of its entries."""


def _by_width(request: GenerationRequest) -> dict[int, Members]:
    """Width of the cache -> the entries that may be written in one batch.

    The width follows the token limit. Entries of another width would change bits on machines where widths change sums.
    """
    found: dict[int, Members] = {}
    for number, entry in enumerate(request.entries):
        width = filled(request.shape.prompt_length + entry.light.token_limit)
        found.setdefault(width, {}).setdefault(entry.adapter, []).append(number)
    return found


class Writing:
    """The completions of one request, as they are written. Needs no torch model but for `by_slots` and `by_batches`.

    Args:
        base: Tokenizer and end tokens.
        request: What to write.
        prompts: Token ids of its prompts.
        done: As for `generate`.
    """

    def __init__(
        self, base: Vocabulary, request: GenerationRequest, prompts: list[list[int]], done: Done | None
    ) -> None:
        self.texts = [[[""] * entry.samples for _ in prompts] for entry in request.entries]
        self.tokens = [0] * len(request.entries)
        self._base, self._request, self._prompts, self._done = base, request, prompts, done
        self._left = [[entry.samples] * len(prompts) for entry in request.entries]
        self._ends = base.ends_with(request.end)
        self._may_stop: dict[int, bool] = {}
        # last tokens in which texts that end a completion are looked for
        self._window = max([8, *(len(mark.encode()) + 4 for mark in request.stop)])

    def by_slots(self, decoder: Slots, entries: Sequence[int]) -> None:
        """Write all completions of `entries`; a row that ends makes its slot free for a waiting one."""
        waiting = deque(decoder.groups(self._prompts))
        ready: deque[tuple[Row, Start]] = deque()
        rows: list[Row | None] = [None] * decoder.shapes.rows[-1]
        lengths = [0] * len(rows)
        while True:
            for slot, row in enumerate(rows):
                while row is None and (ready or waiting):
                    if not ready:
                        group = waiting.popleft()
                        starts = decoder.read([self._prompts[place] for place in group])
                        ready.extend((row, start) for place, start in zip(group, starts, strict=True) for row in self.rows(place, entries))  # fmt: skip
                    row, start = ready.popleft()
                    if self.ended(row, choose(start.logits[None], [row])[0]):
                        row = None
                        continue
                    decoder.put(slot, start)
                    rows[slot], lengths[slot] = row, start.length
            used = [slot for slot, row in enumerate(rows) if row is not None]
            if not used:
                return
            count = next(count for count in decoder.shapes.rows if count >= len(used))
            if count < len(rows):
                moved = used + [slot for slot in range(len(rows)) if rows[slot] is None]
                decoder.move(moved[:count])
                rows, lengths = [rows[slot] for slot in moved[:count]], [lengths[slot] for slot in moved[:count]]
            logits = decoder.step(
                [0 if row is None else row.written[-1] for row in rows],
                [0 if row is None else length for row, length in zip(rows, lengths, strict=True)],
            )
            for slot, token in enumerate(choose(logits, rows)):
                row = rows[slot]
                lengths[slot] += 1
                if row is not None and self.ended(row, token):
                    rows[slot] = None

    def by_batches(self, decoder: Padded, entries: Sequence[int]) -> None:
        """Write all completions of `entries`, one batch after the other in the order of the prompts."""
        waiting = deque(row for place in range(len(self._prompts)) for row in self.rows(place, entries))
        while waiting:
            batch = [waiting.popleft() for _ in range(min(decoder.rows, len(waiting)))]
            rows: list[Row | None] = [*batch, *[None] * (decoder.rows - len(batch))]
            logits = decoder.read([self._prompts[row.prompt] for row in batch])
            while True:
                tokens = choose(logits, rows)
                for place, token in enumerate(tokens):
                    row = rows[place]
                    if row is not None and self.ended(row, token):
                        rows[place] = None
                if not any(rows):
                    break
                logits = decoder.step(tokens)

    def rows(self, prompt: int, entries: Sequence[int]) -> Iterator[Row]:
        """The rows of one prompt, one per entry and sample."""
        request = self._request
        for number in entries:
            entry = request.entries[number]
            light = entry.light
            for sample in range(entry.samples):
                row = Row(number, prompt, sample, light)
                if light.repetition_penalty != 1.0:
                    row.seen = penalised_tokens(self._prompts[prompt], self._ends)
                if light.sampling:
                    row.stream = stream(entry.seed, request.prompts[prompt][0], sample, light.token_limit)
                yield row

    def ended(self, row: Row, token: int) -> bool:
        """Append a token to its row; True when the row ends with it, and its text is then complete."""
        if token not in self._ends:
            row.written.append(token)
            row.seen.add(token)
            if len(row.written) < row.light.token_limit and not self._stops(row.written):
                return False
        self.tokens[row.entry] += len(row.written)
        texts, left = self.texts[row.entry], self._left[row.entry]
        texts[row.prompt][row.sample] = _text(self._base, row.written, self._request.stop)
        left[row.prompt] -= 1
        if self._done is not None and not left[row.prompt]:
            self._done(row.entry, row.prompt, tuple(texts[row.prompt]))
        return True

    def generated(self, whole: Cost) -> Generated:
        """All completions; `whole`, the cost of the request, is split between the entries in proportion to their tokens."""
        total = sum(self.tokens)
        entries = []
        for texts, tokens in zip(self.texts, self.tokens, strict=True):
            part = tokens / total if total else 1 / len(self.tokens)
            share = {"seconds": whole.seconds * part, "cpu_seconds": whole.cpu_seconds * part, "tokens": tokens}
            entries.append(Written(completions=tuple(map(tuple, texts)), cost=whole.model_copy(update=share)))
        return Generated(entries=tuple(entries))

    def _stops(self, written: list[int]) -> bool:
        """True when the last token completes a text that ends completions."""
        stop, last = self._request.stop, written[-1]
        if not stop:
            return False
        if last not in self._may_stop:
            text = _decoded(self._base, [last])
            # other characters may be spread over several tokens, or be dropped where a token stands alone
            plain = all(mark[-1].isascii() and not mark[-1].isspace() for mark in stop)
            self._may_stop[last] = not plain or any(mark[-1] in text for mark in stop)
        return self._may_stop[last] and any(mark in _decoded(self._base, written[-self._window :]) for mark in stop)


def _text(base: Vocabulary, tokens: list[int], stop: tuple[str, ...] = ()) -> str:
    """Decode `tokens` exactly, up to the first text of `stop`."""
    text = _decoded(base, tokens, True)
    return text[: min((text.index(mark) for mark in stop if mark in text), default=len(text))]


def _decoded(base: Vocabulary, tokens: list[int], skip_special: bool = False) -> str:
    """The text of `tokens`. The optional clean-up of spaces that tokenizers offer for English would change code."""
    text: str = base.tokenizer.decode(tokens, skip_special_tokens=skip_special, clean_up_tokenization_spaces=False)
    return text


@contextmanager
def _finite(base: LoadedModel, adapter: AdapterFolder | None) -> Iterator[None]:
    """Turn `NotFiniteError` into a failure of the adapter, or of the bare base model."""
    try:
        yield
    except NotFiniteError as error:
        if adapter is not None:
            raise Infeasible("diverged", f"generation: the adapted model's outputs are {error}") from None
        raise BaseModelError(
            f"base_model.dtype: {base.config.dtype}: the outputs of {base.config.name} are {error}. Try bfloat16 or float32."
        ) from None


def _shapes(base: LoadedModel, rows: int, width: int) -> Shapes | None:
    """The shapes for `base`, which are measured once per loaded model, number of rows and width."""
    key = (rows, width)
    if key not in base.shapes:
        with base.kept():
            base.shapes[key] = shapes_for(base.model, base.pad, *key)
            if base.shapes[key] is None and not padding_changes_nothing(base.model, base.pad):
                del base.shapes[key]
                raise BaseModelError(
                    f"base_model.name: {base.config.name}: padding on the left changes what it computes ({base.model.config.model_type}), "
                    "so it cannot generate in batches",
                    remedy="Give a model of another type.",
                )
    return base.shapes[key]


def _prefix(base: LoadedModel, request: GenerationRequest) -> list[int]:
    """Tokens that the prompts of the request's template begin with.

    The last ones are left out, because the text after them may be joined to them in one token.
    """
    return base.encode(request.prefix, request.add_bos)[:-2] if request.prefix else []
