"""Configurations gone wrong, by seed: bytes and structure of the shipped ones changed, and values out of a list of nasties.

Run as a program it feeds a range of them to the command line in this process, and prints a line of JSON before and after
each. A mutation may use `CPU_SECONDS` of processor time; more ends the process (so a busy machine is no hang), and whoever
reads the lines sees which one it was.
"""

import contextlib
import io
import json
import random
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CPU_SECONDS = 5.0
MEMORY = 4 * 2**30

NASTY = [
    "[" * 3000,
    "{" * 500,
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
    "{a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: {a: 1}}}}}}}}}}}}}}}}}}}}}",
    "&a [*a]",
    "&a {x: *a}",
    "*nobody",
    "!!int x", "!!bool x", "!!float x", "!!null x", "!!timestamp 2020-13-45", "!!binary '@@'", "!!set {a, b}", "!!omap [a: 1]",
    "!!pairs [a: 1]", "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!python/tuple [1]", "!mine x", "!<x> 1",
    "!!str 5", "!!map {}", "!!seq []",
    "? [a, b]\n  : 1", "{[a]: 1}", "{{a: 1}: 2}", "{null: 1}", "{1: 2}", "{true: 1}", "{~: 1}", "{'a[0]': 1}", "{a: 1, a: 2}", "{<<: {a: 1}}", "{'': 1}",
    "9" * 5000, "-" + "9" * 5000, "1e" + "9" * 100, "1e400", "-1e400", "1e-400", "5e-324", "1e308", "1.7976931348623157e308", ".inf", "-.inf", ".nan", ".NaN",
    "9007199254740993", "-9007199254740993", "18446744073709551616", "0", "-1", "-0.0", "1000000", "10000", "1024", "0x7fffffff", "0o17", "017", "0b101",
    "1_000", "1:30", "190:20:30.15", "1e3", "1.0", "1.5", "yes", "no", "on", "off", "y", "true", "false", "null", "~", "''", "' '", "'1'", "2020-01-01",
    '"\\0"', '"\\ud800"', '"\\U00110000"', '"\\UFFFFFFFF"', '"\\x1b]0;gone\\x07"', '"\\e[31m"', '"a\\nb"', '"\\u202e"', "'\x1b[2J'", "\x00", "\x85", "\u2028", "\ufeff",
    "~nosuchuser/x", "~", "~/x", "/", "/dev/null", "/dev/zero", "/proc/self/mem", "/etc/passwd/x", "/" + "x" * 300, "x/" * 3000, "s3://bucket/x", "file:///x", "../../..",
    "'\U0001f41b'", "'%s%n'", "'{0.__class__}'", "'[bold]x[/]'", "[]", "{}", "[[]]", "[null]", "[1, 2, 3]", "[a, a]", "['', x]", "a: b", "- a", "|\n    x", ">\n    x", "@x", "`x`", "%x",
    "x" * 5000, "'" + "x" * 100_000 + "'", "[" + "1, " * 12_000 + "1]", "{" + ", ".join(f"k{n}: 1" for n in range(400)) + "}",
    "coral-tiny", "rehearsal", "rehearsal:train=x", "rehearsal:" + "x" * 300, "nobody/none", "a/b/c", "a b", "-", "..", "cuda:99999", "cuda:" + "9" * 5000, "main", "refs/../../x",
    "quixbugs", "jsonl", "package", "builtin", "nosuch", "random", "truncation", "work-pools", "inline", "last-champion",
]  # fmt: skip
"""Values; YAML, not always valid."""

DOCUMENTS = [
    "", " ", "\n", "\t", "#", "# only a comment", "---", "---\n---\n", "...", "%YAML 1.2\n---\nseed: 1", "%YAML 9.9\n---\n", "%YAML 1." + "9" * 5000 + "\n---\n", "%TAG ! x\n---\n!y 1",
    "5", "text", "[]", "- seed: 1", "null", "{", "}", "[", "]", "'", '"', ":", "?", "-", "- - - - -", "&a", "*a", "!!python/none", "<<: 1", "seed: 1\n---\nseed: 2\n",
    "seed:\t1", "\tseed: 1", "seed: 1\n search: {}", "seed 1", "seed: 1: 2", "search.population: 8", "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    "".join(f"a{n}: &a{n} [*a{n - 1}]\n" if n else "a0: &a0 [1]\n" for n in range(60)), "- " * 20_000, "? " * 20_000, "a: " * 2000, "k: 1\n" * 2000, "\n" * 200_000, "# " + "x" * 200_000,
    "seed: 1\n" * 40_000, "x" * 300_000, "\n".join(f"k{n}: {n}" for n in range(20_000)),
]  # fmt: skip
"""Whole documents."""


@dataclass(frozen=True)
class Mutation:
    """A file and the arguments that go with it."""

    data: bytes
    overrides: tuple[str, ...]
    command: str


def mutation(seed: int) -> Mutation:
    """The mutation number `seed`, the same on every machine."""
    rng = random.Random(f"configuration {seed}")
    bases = _bases()
    data, overrides = rng.choice(bases), ()
    kind = rng.randrange(10)
    if kind < 4:
        text = data.decode()
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            text = _value_changed(text, rng)
        data = text.encode("utf-8", "surrogatepass")
    elif kind < 7:
        for _ in range(rng.choice((1, 1, 3, 10))):
            data = rng.choice(_ON_BYTES)(data, rng)
    elif kind < 9:
        count = rng.choice((1, 1, 2, 4))
        overrides = tuple(f"{_some_key(rng)}={_as_argument(rng.choice(NASTY))}" for _ in range(count))
    else:
        data = rng.choice(DOCUMENTS).encode("utf-8", "surrogatepass")
        if rng.random() < 0.3:
            data = rng.choice((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xff", b"\x00")) + data
    return Mutation(data, overrides, rng.choice(("check", "check", "dry-run")))


def _bases() -> list[bytes]:
    from coral_core.config import RunConfig, dump_yaml

    shipped = [(ROOT / "configs" / name).read_bytes() for name in ("quickstart.yaml", "production.yaml")]
    return [*shipped, dump_yaml(RunConfig()).encode()]


def keys() -> list[str]:
    """Every section and key of the tree, dotted."""
    from pydantic import BaseModel

    from coral_core.config import RunConfig

    def below(model: type[BaseModel], prefix: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            found.append(f"{prefix}{name}")
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                found += below(field.annotation, f"{prefix}{name}.")
        return found

    return below(RunConfig, "")


def _some_key(rng: random.Random) -> str:
    key = rng.choice(keys())
    return rng.choice(
        (
            key,
            key,
            key,
            key,
            f"{key}.x",
            f"{key}[0]",
            f"{key}..x",
            key.upper(),
            f" {key} ",
            "x" * 3000,
            "",
            "a" + ".a" * 300,
        )
    )


def _as_argument(text: str) -> str:
    return text.replace("\0", "")[:100_000]  # an argument has no NUL


def _value_changed(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    place = rng.randrange(len(lines))
    line, nasty = lines[place], rng.choice(NASTY)
    indent = line[: len(line) - len(line.lstrip())]
    key, colon, _ = line.partition(":")
    choice = rng.randrange(7)
    if choice < 4 and colon:
        lines[place] = f"{key}: {nasty}"
    elif choice == 4:
        lines.insert(place, f"{indent}{nasty}")
    elif choice == 5:
        lines.insert(place, line)
    else:
        lines[place] = f"{indent}{nasty}: {rng.choice(NASTY)}"
    return "\n".join(lines)


def _cut(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 1, 5, 50, 5000)) :]


def _put_in(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.choice(NASTY).encode("utf-8", "surrogatepass") + data[start:]


def _random_bytes(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.choice((1, 1, 2, 8))) + data[start + rng.choice((0, 1)) :]


def _sign(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.choice(b"[]{},:&*!|>'\"%@`#?-\t\n \x00".decode()).encode() + data[start:]


def _repeated(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start : start + rng.choice((1, 10, 200))] * rng.choice((2, 2, 30, 2000)) + data[start:]


_ON_BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (_cut, _put_in, _random_bytes, _sign, _repeated)


def arguments(case: Mutation, file: str) -> list[str]:
    """The command line of a mutation."""
    command = ["config", "check", file] if case.command == "check" else ["evolve", file, "--dry-run"]
    return command + [part for item in case.overrides for part in ("--set", item)]


def in_this_process(command: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line."""
    import flows.cli

    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["coral", *command]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            flows.cli.main()
        code: object = 0
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.argv = before
    return code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue()


def main() -> None:
    """FIRST and LAST seed as arguments; works in the current directory."""
    first, last = map(int, sys.argv[1:3])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for seed in range(first, last):
        case = mutation(seed)
        Path("c.yaml").write_bytes(case.data)
        print(json.dumps({"begin": seed}), flush=True)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends the process
        code, out, err = in_this_process(arguments(case, "c.yaml"))
        used = CPU_SECONDS - signal.setitimer(signal.ITIMER_PROF, 0)[0]
        answer = {"seed": seed, "code": code, "out": out[-2000:], "err": err[:4000], "cpu": round(used, 2)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
