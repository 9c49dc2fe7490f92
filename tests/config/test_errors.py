"""Everything wrong with a configuration is refused with its line, its value and the way out."""

from pathlib import Path

import pytest

from coral_core.config import RunConfig, apply_overrides, dump_yaml, load_config, parse_config
from coral_core.config.config_file import BUILT_IN, path_problems
from coral_core.errors import ConfigError
from coral_core.runs.run_folder import identify_run

ROOT = Path(__file__).parents[2]


def complaint(text: str, *overrides: str) -> str:
    """The first line of the error that `text` gives."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml", overrides)
    return str(caught.value).splitlines()[0]


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        ("seed: 1\nsearhc: {}\n", "c.yaml:2: searhc", ("unknown key", "Did you mean search?")),
        (
            "search:\n  population: 8\n  populaton: 9\n",
            "c.yaml:3: search.populaton",
            ("unknown key", "9", "Did you mean population?"),
        ),
        (
            "genes:\n  light:\n    temperature:\n      low: 0.1\n      high: 1.0\n      top: 2\n",
            "c.yaml:6: genes.light.temperature.top",
            ("2", "low, high"),
        ),
        ("genes:\n  heavy:\n    alpha: [8]\n    rank: []\n", "c.yaml:4: genes.heavy.rank", ("[]", "at least 1")),
        ("genes:\n  light:\n    sampling: []\n", "c.yaml:3: genes.light.sampling", ("[]", "at least 1")),
        ("genes:\n  heavy:\n    rank: [8, 4]\n", "c.yaml:3: genes.heavy.rank", ("[8, 4]", "must ascend")),
        (
            "genes:\n  heavy:\n    adapter: [lora, lora]\n",
            "c.yaml:3: genes.heavy.adapter",
            ("repeat", "list each once"),
        ),
        (
            "genes:\n  heavy:\n    adapter:\n      - lora\n      - qlora\n",
            "c.yaml:5: genes.heavy.adapter.1",
            ("qlora", "'lora' or 'dora'"),
        ),
        (
            "genes:\n  heavy:\n    rank: [0, 4]\n",
            "c.yaml:3: genes.heavy.rank.0",
            ("value 0", "greater than or equal to 1"),
        ),
        (
            "scoring:\n  schedule: linear\n  weights: {bugfix: 0.5, cost: 0.2}\n",
            "c.yaml:3: scoring",
            ("weights sum to 0.7, not 1", "bugfix"),
        ),
        (
            "seed: 4\nsearch:\n  generations: 3\n  population: 3\n",
            "c.yaml:4: search",
            ("population 3", "too small", "at least 4"),
        ),
        (
            "search:\n  population: 6\n  elites: 6\n",
            "c.yaml:3: search",
            ("elites 6", "population of 6", "lower elites"),
        ),
        (
            "search:\n  population: 4\n  survival_rate: 0.3\n",
            "c.yaml:3: search",
            ("survival_rate 0.3", "fewer than 2 parents"),
        ),
        ("search:\n  tournament_size: 9\n", "c.yaml:2: search", ("tournament_size 9", "population 8", "lower it")),
        ("search:\n  strategy: Annealing!\n", "c.yaml:2: search.strategy", ("Annealing!", "pattern")),
        ("search:\n  generations: many\n", "c.yaml:2: search.generations", ("many", "valid integer")),
        ("training: {steps: 5, warmup: 5}\n", "c.yaml:1: training", ("warmup 5", "below steps 5")),
        (
            "automaton:\n  density: {low: 0.5, high: 0.2}\n",
            "c.yaml:2: automaton.density",
            ("low 0.5", "high 0.2", "swap"),
        ),
        ("name: Not A Name\n", "c.yaml:1: name", ("Not A Name", "pattern")),
        ("base_model:\n  device: tpu\n", "c.yaml:2: base_model.device", ("tpu", "pattern")),
        (
            "scoring:\n  roles: {bugfix: report, retention: report, cost: report}\n",
            "c.yaml:",
            ("scoring", "role `objective`", "at least one"),
        ),
        ("seed: 1\nseed: 2\n", "c.yaml:2: seed", ("given twice", "line 1")),
        ("search:\n  elites: 1\n  elites: 2\n", "c.yaml:3: search.elites", ("given twice", "line 2")),
        ("search:\n  - a\n", "c.yaml:1: search", ("a section is needed", "strategy")),
        ("- a\n", "c.yaml:1:", ("mapping", "coral init")),
        ("search: {\n", "c.yaml:", ("not YAML", "indentation")),
        (
            "seed: 1\nbudget: {evolution: {money: 1}}\n",
            "c.yaml:2: budget",
            ("budget.price.training is 0", "evolution.money 1", "gpu_hours"),
        ),
        (
            "budget:\n  price: {training: 1.5}\n  day: {money: 9}\n",
            "c.yaml:3: budget",
            ("budget.price.evaluation is 0", "day.money 9", "gpu_hours"),
        ),
        ("seed: -1\n", "c.yaml:1: seed", ("-1", "greater than or equal to 0")),
    ],
)
def test_first_line_names_line_value_and_way_out(text: str, start: str, words: tuple[str, ...]) -> None:
    line = complaint(text)
    assert line.startswith(start), line
    for word in words:
        assert word in line, line


def test_each_mistake_has_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("seed: -1\nsearch:\n  populaton: 3\n", "c.yaml")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == ["c.yaml:1", "c.yaml:3"]


def test_too_few_combinations_for_the_population() -> None:
    heavy = "{rank: [8], alpha: [16], dropout: [0.0], target_modules: [q], adapter: [lora], learning_rate: [1e-3]}"
    line = complaint(f"genes:\n  heavy: {heavy}\n")
    assert "1 combinations" in line
    assert "minimum_unique" in line


@pytest.mark.parametrize("number", ["2e-4", "2.0e-4", "0.0002", "2E-4"])
def test_numbers_that_yaml_1_1_reads_as_text_are_numbers(number: str) -> None:
    """YAML 1.1 calls ``2e-4`` a string; the field's type decides here."""
    config = parse_config(f"genes: {{heavy: {{learning_rate: [{number}, 1e-3]}}}}", "c.yaml")
    assert config.genes.heavy.learning_rate == (0.0002, 0.001)


def test_overrides_are_yaml_and_named_when_wrong() -> None:
    config = parse_config(
        "seed: 1", "c.yaml", ["search.population=12", "genes.heavy.rank=[4, 8]", "base_model.revision=", "seed=7"]
    )
    assert (config.search.population, config.genes.heavy.rank, config.base_model.revision, config.seed) == (
        12,
        (4, 8),
        None,
        7,
    )
    assert complaint("seed: 1", "search.population=3").startswith("--set search.population=3: search")
    assert complaint("seed: 1", "search.populaton=3").startswith(
        "--set search.populaton=3: search.populaton: unknown key"
    )
    assert complaint("seed: 1", "budget.day.money=2").startswith("--set budget.day.money=2: budget: day.money 2")
    assert "section.key=value" in complaint("seed: 1", "search.population")
    assert "is a value, not a section" in complaint("seed: 1", "seed.x=1")
    assert "not YAML" in complaint("seed: 1", "seed=[")


def test_apply_overrides_says_where_each_came_from() -> None:
    data: dict[str, object] = {}
    assert apply_overrides(data, ["a.b=c"]) == {("a", "b"): "--set a.b=c"}
    assert data == {"a": {"b": "c"}}


def test_an_error_of_keys_together_names_the_override_that_it_is_about() -> None:
    weights = "scoring:\n  weights: {bugfix: 1.0}\n"
    assert complaint(weights, "seed=1", "scoring.weights.style=0.5").startswith(
        "--set scoring.weights.style=0.5: scoring: weights"
    )
    assert complaint("scoring:\n  weights: {bugfix: 0.5}\n", "seed=1").startswith("c.yaml:2: scoring: weights")
    heavy = "{rank: [8], alpha: [16], dropout: [0.0], target_modules: [q], adapter: [lora], learning_rate: [1e-3]}"
    assert complaint(f"seed: 1\ngenes:\n  heavy: {heavy}\n", "seed=7").startswith(
        "c.yaml:3: the configuration: genes.heavy"
    )
    assert complaint("", "seed=7", "search.population=10000").startswith(
        "--set search.population=10000: the configuration"
    )


def test_an_override_equals_the_same_line_in_the_file() -> None:
    written = parse_config("search: {population: 12}", "c.yaml")
    overridden = parse_config("", "c.yaml", ["search.population=12"])
    assert identify_run(written) == identify_run(overridden)


def test_missing_files_and_paths(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such configuration file\. Write one with: coral init"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "file").write_text("")
    for text, key, words in (
        ("base_model: {name: /no/such/model}", ("base_model", "name"), "no such directory, and no name"),
        (f"store: {{path: {tmp_path}/file/store}}", ("store", "path"), "is a file, not a directory"),
    ):
        ((where, complaint),) = path_problems(parse_config(text, "c.yaml"))
        assert where == key and complaint.startswith(".".join(key)) and words in complaint
    assert not list(path_problems(parse_config(f"store: {{path: {tmp_path}/new/store}}", "c.yaml")))


def test_a_missing_path_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("seed: 1\nbase_model:\n  name: /no/such/model\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:3: base_model\.name"):
        load_config(file)


def test_every_configuration_is_part_of_the_package() -> None:
    assert {path.stem for path in (ROOT / "configs").glob("*.yaml")} == set(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_our_configurations_are_valid_and_freeze_to_themselves(name: str) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    assert config.name == name
    assert parse_config(dump_yaml(config), "frozen") == config


def test_quickstart_is_the_size_that_was_promised() -> None:
    config = load_config(ROOT / "configs" / "quickstart.yaml")
    assert config.search.generations >= 4
    assert config.search.population >= 8
    assert (config.base_model.name, config.infra.executor) == ("coral-tiny", "local")


def test_production_says_what_the_seed_document_says() -> None:
    config = load_config(ROOT / "configs" / "production.yaml")
    assert config.base_model.name == "codellama/CodeLlama-7b-hf"
    assert (config.infra.executor, config.infra.training.lanes, config.infra.evaluation.lanes) == ("work-pools", 2, 3)
    assert (config.infra.training.minutes, config.infra.evaluation.minutes) == (30, 5)
    assert (config.genes.heavy.rank[0], config.genes.heavy.rank[-1]) == (4, 48)
    compose = (ROOT / "deployments" / "compose.yaml").read_text()
    assert config.store.path == "/srv/coral/runs/store" and "CORAL_STORE=/srv/coral" in compose


def test_an_empty_file_is_the_default_configuration() -> None:
    assert parse_config("", "c.yaml") == RunConfig()
    assert parse_config("# nothing\n", "c.yaml") == RunConfig()


@pytest.mark.parametrize("value", ["rank: [4096]", "rank: [0, -1]", "adapter: [qlora]", "target_modules: [3]"])
def test_a_list_of_refused_items_is_not_called_empty_as_well(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(f"genes:\n  heavy:\n    {value}\n", "c.yaml")
    assert "at least 1 item" not in str(caught.value)
