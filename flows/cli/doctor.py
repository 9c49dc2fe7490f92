"""`coral doctor`: checks this machine, and the installation that it belongs to."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coral_core.config import RunConfig, load_config
from flows.cli.health import collect, find_api
from flows.cli.markup import echo, print_json, words
from flows.cli.places import AsJson, Overrides


def doctor(
    config: Path | None = None,
    /,
    *,
    set_: Overrides = None,
    installation: Annotated[
        bool | None,
        Parameter(help="Check server, pools, workers, lanes and queues too; by default where an API is configured."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine, and the installation where there is one. Exits 1 when something is bad.

    Args:
        config: The configuration whose paths are checked; without it the defaults are.
        installation: Check server, pools, workers, lanes and queues too; by default where an API is configured.
    """
    from flows.monitoring.finding import healthy, summary
    from flows.monitoring.installation_checks import installation_checks
    from flows.monitoring.machine_checks import machine_checks

    settings = load_config(config, set_ or []) if config is not None else RunConfig()
    url, error = find_api()
    checks = collect(machine_checks(settings), show=not as_json)
    with_installation = installation or (installation is None and url is not None)
    if with_installation:
        if not as_json:
            echo(words(f"\ninstallation {url or ''}", "dim"))
        checks += collect(installation_checks(settings.store.path, settings.runs, url, error), show=not as_json)
    fit = healthy(checks)
    if as_json:
        print_json({"schema_version": 1, "fit": fit, "checks": checks})
    else:
        looked = "this machine and the installation" if with_installation else "this machine"
        echo(words(summary(checks, looked), "" if fit else "red"))
        if not with_installation:
            echo(words("The installation was not looked at (--installation).", "dim"))
    if not fit:
        raise SystemExit(1)
