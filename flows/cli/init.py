"""`coral init`: writes a commented configuration."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coral_core.atomic_write import write_atomic
from coral_core.errors import ConfigError, StoreError

QUICKSTART = """\
# CORAL-X quickstart: evolve adapters of the embedded base model on this machine, in a few minutes.
#   coral evolve configs/quickstart.yaml             run it; run it again and nothing is done twice
#   coral config show configs/quickstart.yaml        every key with its default
#   coral config schema                              what each key means and may be
# Any key can also be given as --set section.key=value.

name: quickstart            # part of the run's id
seed: 0                     # another seed is another run

search:
  strategy: evolution       # or random: the baseline at equal budget
  generations: 4
  population: 8
  selection: nsga2          # trades the objectives off; tournament and truncation use the scalar fitness
  elites: 2                 # best genomes carried over, at no cost
  champion_repeats: 3       # trainings of the champion anew, at the end: was it luck?

genes:
  heavy:                    # what needs a training; lists ascend
    rank: [2, 4, 8, 16, 32]
    alpha: [8, 16, 32, 64]
    learning_rate: [1.0e-3, 2.0e-3, 5.0e-3, 1.0e-2]
    target_modules: [q, q+v, attention, mlp, all]
    adapter: [lora, dora]
  light:                    # what needs only an evaluation
    temperature: {low: 0.1, high: 0.7}
    repetition_penalty: {low: 1.0, high: 1.05}
    sampling: [false, true] # greedy, sampling

base_model:
  name: coral-tiny          # embedded, about a million parameters; or a directory or Hugging Face name

infra:
  executor: local           # processes of this machine; work-pools runs the same on Prefect pools
"""
"""The text of configs/quickstart.yaml (a test keeps them equal): an installed package has no configs folder."""


def init(
    file: Path = Path("quickstart.yaml"),
    /,
    *,
    from_: Annotated[
        Path | None, Parameter(name="--from", help="A directory of functions and their tests to take bugs from.")
    ] = None,
    force: Annotated[bool, Parameter(help="Overwrite the file if there is one.", negative=())] = False,
) -> None:
    """Write a commented configuration to start from.

    With --from DIR the tests of DIR are run once, the functions that they call become
    problems, and the configuration fits what was found; what cannot be used is listed.

    Args:
        file: Where to write it.
    """
    if file.exists() and not force:
        raise ConfigError(f"{file}: there is such a file already. Choose another name, or overwrite it with --force.")
    text = QUICKSTART
    if from_ is not None:
        from flows.cli.own_bugs import configuration

        text = configuration(from_, file)
    try:
        write_atomic(file, text.encode())
    except OSError as error:
        raise StoreError(f"{file}: cannot be written ({error.strerror}). Choose another place.") from None
    print(f"wrote {file}. Next: coral config check {file}; coral evolve {file}")
