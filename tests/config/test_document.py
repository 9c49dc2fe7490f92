"""What a configuration may be made of: everything else is refused with its line, its value and the way out, in bounded time."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from coral_core.config import RunConfig, load_config, parse_config
from coral_core.config.yaml_document import MOST_BYTES, MOST_DEPTH, MOST_NODES, read_document
from coral_core.errors import ConfigError

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 40))
"""Every alias is one level deeper than the one before."""


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml")
    return str(caught.value).splitlines()[0]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("seed: 1\nname: !!int x\n", 2, ["the tag !!int", "without a tag"]),
        ("seed: !!bool x\n", 1, ["!!bool"]),
        ("seed: !!timestamp 2020-13-45\n", 1, ["!!timestamp"]),
        ("seed: !!binary '@@'\n", 1, ["!!binary"]),
        ("seed: !!set {a, b}\n", 1, ["!!set"]),
        ("seed: !!omap [a: 1]\n", 1, ["!!omap"]),
        ("seed: !!python/object/apply:os.system ['true']\n", 1, ["!!python/object/apply:os.system"]),
        ("seed: !own x\n", 1, ["!own"]),
        ("seed: 1\n? [a, b]\n: 1\n", 2, ["a key is an alias, a list or a section", "name"]),
        ("seed: 1\n{a: 1}: 1\n", 2, ["a key is an alias, a list or a section"]),
        ("&a a: 1\n*a : 2\n", 2, ["a key is an alias"]),
        ("search:\n  1: x\n", 2, ["the key '1' is no name"]),
        ("null: x\n", 1, ["the key 'null' is no name"]),
        ("true: x\n", 1, ["the key 'true' is no name"]),
        ("'a[0]': x\n", 1, ["a[0]", "no name"]),
        (f"{'k' * 200}: x\n", 1, ["no name"]),
        ("seed: 1\n<<: {seed: 2}\n", 2, ["the key '<<' is no name"]),
        ("search: {elites: 1, elites: 2}\n", 1, ["search.elites is given twice", "line 1"]),
        ("seed: 1\n---\nseed: 2\n", 2, ["second document"]),
        ("seed: " + "9" * 5000, 1, ["5000 characters", "4096"]),
        ("seed: " + "9" * 50, 1, ["9" * 50, "less than 9007199254740992"]),
        ("seed: 1\ndata: 9007199254740993\n", 2, ["9007199254740993", "2**53"]),
        ("seed: .inf\n", 1, ["seed (value '.inf')", "valid integer"]),
        ("search: {survival_rate: .NaN}\n", 1, ["search.survival_rate (value '.NaN')", "valid number"]),
        ("search: {survival_rate: 1e400}\n", 1, ["1e400", "finite number"]),
        ("infra:\n  training: {minutes: 1:30}\n", 2, ["1:30", "two ways", "decimals"]),
        ("seed: 017\n", 1, ["017", "two ways"]),
        ("seed: 0o17\n", 1, ["0o17", "two ways"]),
        ("seed: 0x1F\n", 1, ["0x1F", "two ways"]),
        ("seed: 1_000\n", 1, ["1_000", "two ways"]),
        ("seed: 1\nname: a\x00b\n", 2, ["U+0000"]),
        ("seed: 1\nname: 'a\x1b[31m'\n", 2, ["U+001B"]),
        ("# \u2028\nseed: 1\n", 1, ["U+2028"]),
        ('seed: 1\nname: "a\\0"\n', 2, ["\\x00", "U+0000"]),
        ('name: "\\ud800"\n', 1, ["\\ud800", "U+D800"]),
        ('seed: 1\nname: "\\UFFFFFFFF"\n', 2, ["not YAML"]),
        ('name: "a\\nb"\n', 1, ["U+000A"]),
        ("name: |\n  a\n", 1, ["U+000A"]),
        ("seed: 1\nname: [" + "[" * 3000 + "\n", 2, [f"more than {MOST_DEPTH} lists or sections"]),
        ("[" * 100_000, 1, [f"more than {MOST_DEPTH}"]),
        ("- " * 50_000, 1, [f"more than {MOST_DEPTH}"]),
        ("a: " * 50_000, 1, ["not YAML"]),
        ("seed: &a [*a]\n", 1, ["*a is not defined before, or contains itself"]),
        ("seed: &a {b: *a}\n", 1, ["*a is not defined before, or contains itself"]),
        ("seed: *b\n", 1, ["*b is not defined"]),
        (BOMB, 5, [f"more than {MOST_NODES} values"]),
        (CHAIN, 20, [f"more than {MOST_DEPTH}"]),
        ("seed: [" + "1," * 20_000 + "]\n", 1, [f"more than {MOST_NODES} values"]),
        ("\n".join(f"k{n}: 1" for n in range(300)), 1, ["more than 256 keys"]),
        ("name: " + "x" * 5000, 1, ["a value of 5000 characters"]),
        ("%YAML 1." + "9" * 5000 + "\n---\nseed: 1\n", 1, ["not YAML"]),
        ("seed:\n\t1: 2\n", 2, ["not YAML", "tabs"]),
        ("5", 1, ["mapping of sections", "not 5"]),
        ("seed: true\n", 1, ["seed (value true)", "a number is needed"]),
        ("search: {elites: true}\n", 1, ["search.elites (value true)", "a number is needed"]),
        ("search.population: 9\n", 1, ["search.population", "Write search: as a section"]),
        ("base_model:\n  revision: 1234567\n", 2, ["1234567", "quotes"]),
    ],
)
def test_what_is_no_plain_configuration_is_refused_with_its_line(text: str, line: int, words: list[str]) -> None:
    said = refused(text)
    assert said.startswith(f"c.yaml:{line}: "), said
    assert len(said) < 700 and said.isprintable()
    for word in words:
        assert word in said, said


def test_what_yaml_1_1_takes_for_something_else_is_text() -> None:
    data, _ = read_document("a: yes\nb: on\nc: 2020-13-45\nd: 2020-01-01\ne: =\nf: n\n", "c.yaml")
    assert data == {"a": "yes", "b": "on", "c": "2020-13-45", "d": "2020-01-01", "e": "=", "f": "n"}
    assert parse_config("search: {early_stopping: {enabled: no}}", "c.yaml").search.early_stopping.enabled is False


def test_aliases_repeat_values_and_share_none() -> None:
    text = "search:\n  variation: {gene_rate: 0.5}\ninfra:\n  training: &lanes {lanes: 3}\n  evaluation: *lanes\n"
    config = parse_config(text, "c.yaml", ["infra.training.lanes=7"])
    assert (config.infra.training.lanes, config.infra.evaluation.lanes) == (7, 3)


def test_an_error_below_an_alias_has_the_line_of_the_alias() -> None:
    said = refused("infra:\n  training: &lanes {lanes: 0}\n\n  evaluation: *lanes\n")
    assert said.startswith("c.yaml:2: infra.training.lanes")
    with pytest.raises(ConfigError, match=r"c\.yaml:4: infra\.evaluation\.lanes"):
        parse_config("infra:\n  training: &lanes {lanes: 0}\n\n  evaluation: *lanes\n", "c.yaml")


@pytest.mark.parametrize("text", ["", "# only words\n", "---\n", "--- # nothing\n...\n", "\ufeff", " \n\n"])
def test_nothing_is_the_default_configuration(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text, "utf-8")
    assert load_config(tmp_path / "c.yaml") == RunConfig()


# -- files ----------------------------------------------------------------------------------------------------


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "large").write_bytes(b"#" * (MOST_BYTES + 1))
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    cases = {
        "fifo": "a FIFO, not a file",
        "socket": "a socket, not a file",
        "loop": "symbolic link",
        "large": "at most 256 KiB",
        "sparse": "at most 256 KiB",
        ".": "a folder, not a file",
        "large/x": "a file where a folder should be",
        "x" * 300: "File name too long",
        "no": "no such configuration file. Write one with: coral init",
    }
    for name, words in cases.items():
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path / name)
        assert words in str(caught.value), name
    for device in ("/dev/zero", "/dev/null", "/dev/tty"):
        if Path(device).exists():
            with pytest.raises(ConfigError, match="a device, not a file"):
                load_config(device)
    with pytest.raises(ConfigError, match="It is read from a file"):
        load_config("-")
    with pytest.raises(ConfigError, match="cannot be read as a configuration"):
        load_config("a\0b")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"seed: 1\nname: \xff\n", "c.yaml:2: cannot be read as a configuration: byte ff is not UTF-8"),
        ("seed: 1\n".encode("utf-16"), "c.yaml:1: cannot be read as a configuration: byte ff is not UTF-8"),
        ("seed: 1\n".encode("utf-16-be"), "U+0000"),
        (b"\xed\xa0\x80", "not UTF-8"),
        ("seed: 1\n".encode("utf-32"), "byte ff is not UTF-8"),
    ],
)
def test_other_encodings_are_refused(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "c.yaml")
    assert words in str(caught.value)


def test_a_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.yaml").write_text("seed: 1")

    def denied(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # root may read everything
    with pytest.raises(ConfigError, match="Permission denied"):
        load_config(tmp_path / "c.yaml")


# -- the command line's values, and JSON ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("name=" + "[" * 3000, f"more than {MOST_DEPTH}"),
        ("name=!!int x", "the tag !!int"),
        ("seed=" + "9" * 5000, "5000 characters"),
        ("seed=&a [*a]", "contains itself"),
        ("a[0]=1", "'a[0]' is no key"),
        ("search..x=1", "is no key"),
        (".".join(["a"] * 300) + "=1", f"more than {MOST_DEPTH}"),
        ("name='\x1b[31m'", "U+001B"),
        ("search.populaton=9", "unknown key (value 9). Did you mean population?"),
        ("search.population=lots", "search.population (value 'lots')"),
        ("seed=yes", "seed (value 'yes')"),
        ("seed=true", "seed (value true): a number is needed"),
        ("seed", "section.key=value"),
    ],
)
def test_an_override_is_held_to_the_same_limits_and_named(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("", "c.yaml", [override])
    said = str(caught.value).splitlines()[0]
    assert said.startswith("--set ") and words in said and len(said) < 700 and said.isprintable(), said


def _deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": _deep(50_000)}, "within each other"),
        ({"genes": {"heavy": {"rank": [1] * 20_000}}}, "more than 10000 values"),
        ({"seed": 10**5000}, "seed: the value is beyond 2**53"),
        ({"seed": float("nan")}, "not a finite number"),
        ({"name": "x" * 10_000}, "characters"),
        ({"runs": "a\ud800"}, "U+D800"),
        ({"runs": "a\x1b[2J"}, "U+001B"),
        ({1: 2}, "is no name"),
        ({"a[0]": 2}, "is no name"),
        ({f"k{n}": 1 for n in range(300)}, "more than 256 keys"),
        ({"store": {"path": "s3://bucket/x"}}, "is an address"),
        ({"store": {"path": "~nobody/x"}}, "only ~/ is read"),
        ({"infra": {"linger": 1e300}}, "less than or equal to 3600"),
        ({"base_model": {"revision": "../../x"}}, "no name of a commit"),
        ({"problems": {"bug_classes": ["none"]}}, "Input should be"),
        ({"genes": {"heavy": {"target_modules": ["+"]}}}, "no set of modules"),
    ],
)
def test_parameters_of_a_flow_run_are_held_to_the_limits_of_a_file(given: dict[Any, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RunConfig.model_validate(given)
    assert words in str(caught.value)


def test_a_flow_run_with_such_parameters_is_told_so_and_runs_nothing() -> None:
    pytest.importorskip("prefect")
    from prefect.exceptions import ParameterTypeError

    from flows.evolve import evolve

    with pytest.raises(ParameterTypeError, match=r"store\.path.*is an address"):
        evolve.validate_parameters({"config": {"store": {"path": "s3://bucket/x"}}})
    with pytest.raises(ParameterTypeError, match="within each other"):
        evolve.validate_parameters({"config": {"name": _deep(100)}})


# -- properties ------------------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=("Cc", "Cs", "Cf", "Zl", "Zp", "Cn")), max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


class _Quoting(yaml.SafeDumper):
    """Writes every text in quotes."""


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), PLAIN, max_size=5))
@settings(max_examples=150, deadline=None)
def test_plain_data_that_was_written_is_read_as_it_was(data: dict[str, Any]) -> None:
    """By a YAML writer that quotes its texts (PyYAML knows the plain forms of YAML 1.1 only), and as JSON, which is YAML, too."""
    assert read_document(yaml.dump(data, Dumper=_Quoting, allow_unicode=True), "c.yaml")[0] == data
    assert read_document(json.dumps(data, ensure_ascii=False), "c.yaml")[0] == data


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused_with_a_line(text: str) -> None:
    try:
        read_document(text, "c.yaml")
    except ConfigError as error:
        assert str(error).startswith("c.yaml:") and str(error).isprintable()


@given(st.recursive(st.sampled_from(["[", "]", "{", "}", "&a ", "*a", "!!int ", "!", "- ", "? ", ": ", "\n", "a", "1", "'", '"', "|", "\\"]), lambda x: st.lists(x, max_size=8).map("".join), max_leaves=40))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_any_signs_are_read_or_refused_with_a_line(text: str) -> None:
    try:
        read_document(text, "c.yaml")
    except ConfigError as error:
        assert str(error).startswith("c.yaml:") and str(error).isprintable()


def test_a_plug_in_that_comes_later_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plug-ins are looked up anew for each configuration."""
    text = "scoring: {roles: {later: report}}"
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="no such objective"):
        parse_config(text, "c.yaml")
    info = tmp_path / "later-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: later\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[coral_x.objectives]\nlater = later:score\n")
    assert parse_config(text, "c.yaml").scoring.roles["later"] == "report"
