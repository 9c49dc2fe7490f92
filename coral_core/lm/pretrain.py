"""Builds coral-tiny, the embedded base model, from nothing: ``python -m coral_core.lm.pretrain DIR``.

With ``--exchanged --seed 2`` it builds the base model of the second gene table (benchmarks/tables), which knows other
families.

A Llama of about 0.9 million parameters that repairs bugs of four classes in the A families of
`coral_core.problem_sources`; the B families and the other bug classes are left for adapters to learn. Training text:
``<bos>buggy<sep>fixed<eos>``, with loss weight 0.1 on the prompt. Matrices are trained by Muon (Jordan et al. 2024,
momentum orthogonalised by five Newton-Schulz steps), all other parameters by AdamW.
"""

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from coral_core.problem_sources.builtin import echo_pairs, plain_functions, pretraining_pairs
from coral_core.problem_sources.families import ALL_FAMILIES, EXCHANGED, USUAL, Roles
from coral_core.prompting.templates import TINY

SPECIAL = ("<pad>", "<bos>", "<sep>", "<eos>")
VOCABULARY = 768
PAIRS, STEPS, BATCH, SEED = 32_000, 1_500, 32, 1
PROMPT_WEIGHT = 0.1
ECHO_SHARE = 0.03
"""Right A functions that stay as they are, per repair pair: they teach the base to leave right code alone."""
SCRAMBLE_SHARE = 0.2
"""Lines of unrelated functions, some of B, to be copied as they are, per repair pair: teaches copying, no family."""
PLAIN_SHARE = 0.08
"""Right functions of A and B as plain text, per repair pair (what other shares gave: coral_core/lm/tiny/README.md)."""
LONGEST = 224


def build_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over `texts`; digits stay single so that constants are copied exactly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        sep_token="<sep>",
        padding_side="left",
    )


def build_model(vocabulary: int) -> LlamaForCausalLM:
    """The untrained model, of the fixed shape above; `vocabulary` is the number of tokens."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=3,
        )
    )


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): momentum whose update is orthogonalised by five Newton-Schulz steps.

    Matrices of one shape are orthogonalised as one batch.

    Args:
        matrices: Parameters with two dimensions.
        lr: Learning rate; multiplied by sqrt(max(1, rows / columns)) per matrix.
        momentum: Share of the momentum buffer that is kept per step, in [0, 1).
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all matrices once from their gradients."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, members in shapes.items():
                directions = []
                for parameter in members:
                    buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                    buffer.lerp_(parameter.grad, 1 - group["momentum"])
                    directions.append(parameter.grad.lerp(buffer, group["momentum"]))  # type: ignore[union-attr]
                updates = _orthogonal(torch.stack(directions))
                scale = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                for parameter, update in zip(members, updates, strict=True):
                    parameter.sub_(update, alpha=scale)


def _orthogonal(stack: Tensor) -> Tensor:
    """Five Newton-Schulz steps on a stack of matrices (n, rows, columns)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    flip = stack.shape[-2] > stack.shape[-1]
    x = stack.transpose(-1, -2) if flip else stack
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.transpose(-1, -2)
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = x.transpose(-1, -2) if flip else x
    return result


def make_texts(count: int = PAIRS, seed: int = SEED, roles: Roles = USUAL) -> list[tuple[str, str]]:
    """Pairs (prompt, answer), shuffled: repairs, echoes, scrambles, and plain functions with an empty prompt.

    Args:
        count: Number of repairs; the others are shares of it.
        seed: Equal seeds give equal texts.
        roles: Says which families are known.
    """
    known = roles.known
    parts = (pretraining_pairs(count // 8, seed * 1000 + part, known) for part in range(8))
    drawn = [(pair.buggy, pair.fixed) for pairs in parts for pair in pairs]
    drawn += [(pair.buggy, pair.fixed) for pair in echo_pairs(int(count * ECHO_SHARE), seed, known)]
    drawn += [(text, text) for text in scrambles(int(count * SCRAMBLE_SHARE), seed, roles)]
    texts = [(TINY.prompt(buggy), TINY.answer(fixed)) for buggy, fixed in drawn]
    texts += [("<bos>", source + "<eos>") for source in plain_functions(int(count * PLAIN_SHARE), seed, ALL_FAMILIES)]
    random.Random(seed).shuffle(texts)
    return texts


def scrambles(count: int, seed: int, roles: Roles = USUAL) -> list[str]:
    """Texts of a function header and 2 to 6 lines, each taken from another function; the model learns to copy them.

    Args:
        count: Number of texts.
        seed: Seed of functions and choice; equal seeds give equal texts.
        roles: Says which families are known; most lines are theirs.
    """
    rng = random.Random(f"scramble {seed}")
    drawn = plain_functions(1_500, seed + 2, roles.known) + plain_functions(500, seed + 3, ALL_FAMILIES)
    sources = [source.split("\n") for source in drawn]
    bodies = [line for source in sources for line in source[1:]]
    return ["\n".join([rng.choice(sources)[0], *rng.sample(bodies, rng.randint(2, 6))]) for _ in range(count)]


def batches(
    encoded: list[tuple[list[int], int]], size: int = BATCH, seed: int = SEED
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless stream of shuffled batches; texts of similar length go together.

    Args:
        encoded: Token ids, and the length of the prompt in them, per text.
        size: Texts per batch.
        seed: Seed of the order.

    Returns:
        Pairs (tokens, loss weights), both of shape (size, longest text); padded on the right with token 0 and weight 0.
    """
    rng = random.Random(seed)
    order = list(range(len(encoded)))
    while True:
        rng.shuffle(order)
        chunks = []
        for start in range(0, len(order) - size * 16 + 1, size * 16):
            window = sorted(order[start : start + size * 16], key=lambda n: len(encoded[n][0]))
            chunks += [window[i : i + size] for i in range(0, len(window), size)]
        rng.shuffle(chunks)
        for chunk in chunks:
            length = max(len(encoded[n][0]) for n in chunk)
            tokens = torch.zeros(size, length, dtype=torch.long)
            weights = torch.zeros(size, length)
            for row, n in enumerate(chunk):
                ids, prompt = encoded[n]
                tokens[row, : len(ids)] = torch.tensor(ids)
                weights[row, :prompt] = PROMPT_WEIGHT
                weights[row, prompt : len(ids)] = 1.0
            yield tokens, weights


def loss_of(model: nn.Module, tokens: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the next-token cross-entropy.

    Args:
        model: A causal language model.
        tokens: Token ids, shape (rows, length).
        weights: Loss weight of each token as a target, shape (rows, length); the first column is not used.

    Returns:
        A scalar tensor.
    """
    logits = model(input_ids=tokens).logits[:, :-1].float()
    losses = nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1), reduction="none"
    )
    weight = weights[:, 1:].reshape(-1)
    return (losses * weight).sum() / weight.sum()


def train(
    model: LlamaForCausalLM, encoded: list[tuple[list[int], int]], steps: int = STEPS, seed: int = SEED
) -> list[float]:
    """Train for some batches: learning rates are constant for 40 % of the steps, then fall linearly to 0.

    Args:
        model: The untrained model; it is changed in place.
        encoded: As `encode` gives them.
        steps: Number of batches.
        seed: Seed of the order of the texts.

    Returns:
        The loss of each step.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimisers = [Muon(matrices, lr=1.5e-2), torch.optim.AdamW(others, lr=3e-3, weight_decay=0.0, betas=(0.9, 0.95))]
    base = [optimiser.param_groups[0]["lr"] for optimiser in optimisers]
    losses: list[float] = []
    for step, (tokens, weights) in zip(range(steps), batches(encoded, seed=seed), strict=False):
        factor = min(1.0, (steps - step) / (0.6 * steps))
        for optimiser, lr in zip(optimisers, base, strict=True):
            optimiser.param_groups[0]["lr"] = lr * factor
            optimiser.zero_grad()
        loss = loss_of(model, tokens, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step} of {steps}, loss {sum(losses[-20:]) / len(losses[-20:]):.4f}", file=sys.stderr)
    return losses


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[tuple[str, str]]) -> list[tuple[list[int], int]]:
    """Token ids of training texts; texts of more than `LONGEST` tokens are left out.

    Args:
        tokenizer: The tokenizer of the model.
        texts: Pairs (prompt, answer).

    Returns:
        Per text, the ids of prompt and answer together, and how many of them are the prompt's.
    """
    encoded = []
    for prompt, answer in texts:
        before, after = (tokenizer.encode(text, add_special_tokens=False) for text in (prompt, answer))
        if len(before) + len(after) <= LONGEST:
            encoded.append((before + after, len(before)))
    return encoded


def main() -> None:
    """Write the model, its tokenizer and `pretraining.json` to the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="receives the model")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--exchanged", action="store_true", help="know the families that are usually learnt")
    options = parser.parse_args()
    out, seed, started = options.folder, options.seed, time.time()
    roles = EXCHANGED if options.exchanged else USUAL
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # the same bits on any number of cores
    texts = make_texts(PAIRS, seed, roles)
    plain = [
        f"{prompt.removeprefix('<bos>').removesuffix('<sep>')}\n{answer.removesuffix('<eos>')}"
        for prompt, answer in texts
    ]
    # the tokenizer is also trained on plain functions of the families to learn, whose names would else split into bytes
    tokenizer = build_tokenizer(plain[:12_000] + plain_functions(4_000, seed + 1, ALL_FAMILIES))
    encoded = encode(tokenizer, texts)
    model = build_model(len(tokenizer))
    losses = train(model, encoded, STEPS, seed)
    model.to(torch.bfloat16).save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    facts = {
        "texts": len(encoded),
        "tokens_seen": STEPS * BATCH * sum(len(ids) for ids, _ in encoded) // len(encoded),
        "steps": STEPS,
        "seed": seed,
        "known": [family.name for family in roles.known],
        "final_loss": round(sum(losses[-20:]) / 20, 4),
        "seconds": round(time.time() - started),
        "torch": torch.__version__,
    }
    (out / "pretraining.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
