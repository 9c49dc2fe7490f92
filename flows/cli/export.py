"""`coral export mlflow` and `coral export wandb`: write a run's history for other tools, with their own libraries.

Both libraries are extras. Nothing is sent over a network unless the tracking store given to MLflow is a server; Weights &
Biases runs are written offline, for ``wandb sync``.
"""

import contextlib
import importlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from coral_core.errors import ConfigError, CoralError
from coral_core.report.series import Tracked, numbers, tracked
from coral_core.runs.run_folder import RunFolder, find_run
from flows.cli.markup import words
from flows.cli.places import Runs, store_of

LONGEST = 5_000
"""Largest number of characters of a parameter; MLflow accepts 6,000."""
BATCH = 100


OUTCOMES = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
"""Outcome of a run -> MLflow's status; a running run stays running there."""


class ExportError(CoralError):
    """The other tool refused the run."""


def mlflow(
    run: str = "latest",
    /,
    *,
    tracking_uri: Annotated[
        str | None,
        Parameter(
            help="MLflow tracking store: a directory, sqlite:///FILE, or a server. Default: MLFLOW_TRACKING_URI, else RUN/mlruns."
        ),
    ] = None,
    runs: Runs = "runs",
) -> None:
    """Write a run into an MLflow tracking store: metrics by generation, a nested run per genome, the report as artifacts.

    An earlier export of the same run is replaced.

    Args:
        run: Id of the run, the beginning of one, `latest`, or the path of its folder.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    library = _library("mlflow", "mlflow")
    folder = find_run(runs, run)
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or str(folder.path / "mlruns")
    if "://" not in uri:
        uri = Path(uri).expanduser().absolute().as_uri()
    if uri.startswith("file:"):
        # MLflow 3 requires this variable for plain files, which need no database and no server
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    with _tracked(folder) as data:
        number = _written_to_mlflow(library, uri, data)
    out = Console(highlight=False, soft_wrap=True)
    out.print(words(f"MLflow run {number} in {_without_password(uri)}: {len(data.steps)} generations, {len(data.genomes)} genomes, {len(data.files)} files"))  # fmt: skip
    out.print(words(f"look at it with: mlflow ui --backend-store-uri {_without_password(uri)}"))


def wandb(
    run: str = "latest",
    /,
    *,
    dir: Annotated[Path | None, Parameter(help="Directory that receives the offline run. Default: RUN.")] = None,
    project: Annotated[str, Parameter(help="Project that `wandb sync` puts it into.")] = "coral-x",
    runs: Runs = "runs",
) -> None:
    """Write a run as an offline Weights & Biases run: metrics by generation, a table of genomes, the report's files.

    Args:
        run: Id of the run, the beginning of one, `latest`, or the path of its folder.
    """
    library = _library("wandb", "wandb")
    folder = find_run(runs, run)
    target = (dir or folder.path).expanduser().absolute()
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--dir {target}: cannot be made ({error.strerror}). Choose another directory.") from error
    with _tracked(folder) as data:
        try:
            written = _to_wandb(library, target, project, data)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise ExportError(f"--dir {target}: Weights & Biases does not take the run ({reason}).") from error
    out = Console(highlight=False, soft_wrap=True)
    out.print(words(f"offline Weights & Biases run {written}: {len(data.steps)} generations, {len(data.genomes)} genomes, {len(data.files)} files"))  # fmt: skip
    out.print(words(f"send it with: wandb sync {written}"))


def _without_password(uri: str) -> str:
    """`uri` with user name and password replaced by ``***``."""
    return re.sub(r"//[^/@]*@", "//***@", uri)


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"coral export {name}: the library {name} is not installed ({error}). Install the extra: pip install 'coral-x[{extra}]'"
        ) from None


@contextlib.contextmanager
def _tracked(folder: RunFolder) -> Iterator[Tracked]:
    """The data to export. The report is built in a temporary folder, since the run's folder may belong to another user."""
    from coral_core.report.report_files import write_report

    with tempfile.TemporaryDirectory() as scratch:
        yield tracked(folder, write_report(folder, store_of(folder), Path(scratch)), Path(scratch))


def _written_to_mlflow(library: Any, uri: str, data: Tracked) -> str:
    try:
        return _to_mlflow(library, uri, data)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ExportError(
            f"--tracking-uri {_without_password(uri)}: MLflow does not take the run ({_without_password(reason)}). Try a directory, or install the whole of mlflow for databases."
        ) from error


def _to_mlflow(library: Any, uri: str, data: Tracked) -> str:
    client = library.MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(data.group)
    experiment = found.experiment_id if found else client.create_experiment(data.group)
    mark = f"tags.`coral.run_id` = '{data.run_id}'"
    for earlier in client.search_runs([experiment], mark, max_results=50_000):
        client.delete_run(earlier.info.run_id)
    start, end = int(1000 * data.started), int(1000 * (data.started + data.seconds))
    parent = client.create_run(experiment, start_time=start, run_name=data.run_id, tags=data.tags).info.run_id
    metric, parameter = library.entities.Metric, library.entities.Param
    _batches(client, parent, "params", [parameter(key, str(value)[:LONGEST]) for key, value in data.parameters.items()])
    last = max((step for step, _ in data.steps), default=0)
    rows = [metric(key, value, end, step) for step, values in data.steps for key, value in values.items()]
    _batches(client, parent, "metrics", rows + [metric(key, value, end, last) for key, value in data.final.items()])
    for genome in data.genomes:
        infeasible = f"{genome['infeasible']}: {genome['reason']}" if genome["infeasible"] else ""
        tags = {"coral.run_id": data.run_id, "mlflow.parentRunId": parent, "infeasible": infeasible[:LONGEST]}
        name, step = genome["genome_id"], genome["generation"]
        child = client.create_run(experiment, start_time=start, run_name=name, tags=tags).info.run_id
        _batches(client, child, "params", [parameter(key, str(value)[:LONGEST]) for key, value in genome.items()])
        values = numbers(genome, "generation", "slot")
        _batches(client, child, "metrics", [metric(key, value, end, step) for key, value in values.items()])
        client.set_terminated(child, "FAILED" if infeasible else "FINISHED", end)
    for path in data.files:
        client.log_artifact(parent, str(path))
    if data.status != "running":
        client.set_terminated(parent, OUTCOMES[data.status], end)
    return str(parent)


def _batches(client: Any, run_id: str, kind: str, rows: list[Any]) -> None:
    for start in range(0, len(rows), BATCH):
        client.log_batch(run_id, **{kind: rows[start : start + BATCH]})


def _to_wandb(library: Any, target: Path, project: str, data: Tracked) -> str:
    settings = library.Settings(
        mode="offline", silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True
    )  # fmt: skip
    run = library.init(
        project=project, group=data.group, name=data.run_id, dir=str(target), settings=settings,
        config={**data.parameters, **data.tags}, job_type="evolution",
    )  # fmt: skip
    try:
        for step, values in data.steps:
            run.log(values, step=step)
        run.summary.update(data.final)
        columns = list(data.genomes[0]) if data.genomes else []
        rows = [list(genome.values()) for genome in data.genomes]
        run.log({"genomes": library.Table(columns=columns, data=rows)})
        for path in data.files:
            run.save(shutil.copy(path, run.dir), base_path=run.dir, policy="now")  # a copy: the run may be moved
        return str(Path(run.dir).parent)
    finally:
        run.finish()
