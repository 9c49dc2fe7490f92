"""`coral doctor`: is this machine fit, and the installation that it belongs to?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from coral_core.config import RunConfig, load_config
from flows.cli.config import AsJson, Overrides
from flows.cli.health import collect, find_api
from flows.cli.markup import words


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
    out = Console(highlight=False, soft_wrap=True)
    printed = None if as_json else out
    checks = collect(machine_checks(settings), printed)
    with_installation = installation or (installation is None and url is not None)
    if with_installation:
        if not as_json:
            out.print(f"\ninstallation {url or ''}", style="dim")
        checks += collect(installation_checks(settings.store.path, settings.runs, url, error), printed)
    fit = healthy(checks)
    if as_json:
        rows = [asdict(check) for check in checks]
        print(json.dumps({"schema_version": 1, "fit": fit, "checks": rows}, indent=1))
    else:
        looked = "this machine and the installation" if with_installation else "this machine"
        out.print(words(summary(checks, looked), "" if fit else "red"))
        if not with_installation:
            why = "" if url is not None else ": no API is configured"
            out.print(words(f"The installation was not looked at{why} (--installation).", "dim"))
    if not fit:
        raise SystemExit(1)
