"""Installs automations from files, and the notification block that sends their notices.

``--notify-url`` creates a block that posts ``{"text": ...}``, a format that Slack, Mattermost, Rocket.Chat and most
self-written receivers accept. ``--notify-block`` names a block made in the UI (e-mail, PagerDuty, Opsgenie, ...). The URL
is stored as a secret of the block and never printed. Without a block the automations only create entries in the event
feed. Options that are not given keep their installed values.
"""

import contextlib
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger
from prefect.exceptions import ObjectNotFound
from prefect.types import SecretDict
from pydantic import Field, SecretStr

from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from flows.installation.pool_templates import automation_files, filled

BLOCK_TYPE, BLOCK_NAME = "custom-webhook", "coral-notices"
NO_PROGRESS = "coral: no progress"
MINUTES = 45.0
"""Default of --no-progress-minutes: longer than a training (`infra.training.minutes`, 30) and a lane start (`infra.start`, 10)."""
NONE = "none"
NOWHERE = "notices (the event feed shows them; name a place with coral setup --notify-url URL)"


class Notices(Frozen):
    """Options of `coral setup`; None keeps the installed value, or takes the default."""

    url: SecretStr | None = Field(None, description="URL that notices are posted to.")
    block: str | None = Field(None, description="TYPE/NAME of a notification block, or none.")
    no_progress_minutes: float | None = None

    def check(self) -> None:
        """Raise `ConfigError` for values that Prefect would refuse later."""
        if self.url is not None and self.block is not None:
            raise ConfigError("--notify-url and --notify-block: name two receivers", remedy="Give one of them.")
        if self.url is not None and not (
            host(self.url) and self.url.get_secret_value().lower().startswith(("http://", "https://"))
        ):
            raise ConfigError(
                "--notify-url: not an http or https URL (not shown: it may be a secret)", remedy="Check it."
            )
        if self.no_progress_minutes is not None and self.no_progress_minutes * 60 < 10:
            raise ConfigError(
                f"--no-progress-minutes {self.no_progress_minutes:g}: Prefect detects absence over 10 seconds or more",
                remedy=f"Use 0.17 or more (default {MINUTES:g}).",
            )


def host(url: SecretStr) -> str:
    """Host of a URL, the only part that may be printed, since the rest may be a secret; "" where there is none."""
    try:
        return urlsplit(url.get_secret_value()).hostname or ""
    except ValueError:
        return ""


class Installed:
    """The automations of `coral setup`, in the files and on the server.

    Args:
        client: A client of the server; the automations are read from it at once.
    """

    def __init__(self, client: SyncPrefectClient) -> None:
        self._client = client
        self.files = automation_files()
        found = {data["name"]: client.read_automations_by_name(data["name"]) for data in self.files}
        self.found: dict[str, Automation] = {name: automations[0] for name, automations in found.items() if automations}

    def block(self) -> UUID | None:
        """Id of the block through which the installed automations notify; None when there is none or it was deleted."""
        for automation in self.found.values():
            for action in automation.actions:
                if (wanted := getattr(action, "block_document_id", None)) is not None:
                    with contextlib.suppress(ObjectNotFound):
                        return self._client.read_block_document(wanted, include_secrets=False).id
        return None

    def wanted(self, notices: Notices, block: UUID | None) -> list[AutomationCore]:
        """The automations of the files, filled with the values of `notices`. Automations that are disabled stay so.

        Args:
            notices: Options of `coral setup`; `no_progress_minutes` left out keeps the installed value.
            block: Id of the notification block; None: the automations send nothing.
        """
        installed = self.found[NO_PROGRESS].trigger if NO_PROGRESS in self.found else None
        within = installed.within.total_seconds() / 60 if isinstance(installed, EventTrigger) else MINUTES
        minutes = notices.no_progress_minutes or within
        values = {"notify": str(block), "no_progress_seconds": minutes * 60, "no_progress_minutes": f"{minutes:g}"}
        result = []
        for data in self.files:
            wanted = filled(data, values)
            if block is None:
                nothing = {"type": "do-nothing"}
                wanted["actions"] = [nothing if a["type"] == "send-notification" else a for a in wanted["actions"]]
            if data["name"] in self.found:
                wanted["enabled"] = self.found[data["name"]].enabled
            result.append(AutomationCore.model_validate(wanted))
        return result

    def apply(self, wanted: AutomationCore, dry_run: bool) -> str:
        """Create or update one automation.

        Args:
            wanted: How it shall be; found on the server by its name.
            dry_run: Change nothing.

        Returns:
            What was done, or would be, in words.
        """
        found = self.found.get(wanted.name)
        if found is None:
            if not dry_run:
                self._client.create_automation(wanted)
            return "would create" if dry_run else "created"
        if _content(found) == _content(wanted):
            return "is as it should be" if found.enabled else "is switched off"
        if not dry_run:
            self._client.update_automation(found.id, wanted)
        return "would update" if dry_run else "updated"


def _content(automation: AutomationCore) -> dict[str, Any]:
    """The settable fields of an automation, for comparison: no ids and times, sets sorted."""
    data = automation.model_dump(mode="json", include=set(AutomationCore.model_fields))
    trigger = data["trigger"]
    for key in ("after", "expect", "for_each"):
        trigger[key] = sorted(trigger.get(key) or [])
    for key in ("match", "match_related"):
        trigger[key] = {name: [v] if isinstance(v, str) else v for name, v in (trigger.get(key) or {}).items()}
    trigger.pop("id", None)
    return data


def receiver(
    client: SyncPrefectClient, notices: Notices, installed: Installed, dry_run: bool
) -> tuple[UUID | None, str, str]:
    """Set up the notification block that `notices` asks for.

    Args:
        client: A client of the server.
        notices: URL or block; where neither is given the installed block is kept.
        installed: The automations on the server, which name the installed block.
        dry_run: Change nothing.

    Returns:
        The block's id (None: no notices are sent), its description, and what was done, in words.

    Raises:
        ConfigError: The server has no such block.
    """
    own = _block(client, BLOCK_NAME, BLOCK_TYPE, include_secrets=True)
    if notices.url is not None:
        return _post_to(client, notices.url, own, dry_run)
    if notices.block is None:
        kept = installed.block()
        return (kept, "notices", "go where they went") if kept else (None, NOWHERE, "go nowhere")
    if notices.block == NONE:
        if own is not None and not dry_run:
            client.delete_block_document(own.id)
        return None, "notices", "would go nowhere" if dry_run else "go nowhere"
    kind, _, name = notices.block.partition("/")
    found = _block(client, name, kind)
    if found is None:
        raise ConfigError(
            f"--notify-block {notices.block}: no such block on this server",
            remedy="Create it in the UI (Blocks), or look up TYPE/NAME with prefect block ls.",
        )
    return found.id, f"notices through block {notices.block}", "would go" if dry_run else "go"


def _post_to(
    client: SyncPrefectClient, url: SecretStr, own: BlockDocument | None, dry_run: bool
) -> tuple[UUID | None, str, str]:
    what = f"block {BLOCK_TYPE}/{BLOCK_NAME}: notices to {host(url)}"
    secrets = (own.data.get("secrets") or {}) if own is not None else {}
    if own is not None and secrets.get("url") == url.get_secret_value():
        return own.id, what, "is as it should be"
    action = "create" if own is None else "update"
    if dry_run:
        return own.id if own else UUID(int=0), what, f"would {action}"
    block = CustomWebhookNotificationBlock(
        name="CORAL-X",
        url="{{url}}",  # the field itself is shown in the UI, the secret is not
        json_data={"text": "{{subject}}\n{{body}}"},
        headers=None,
        secrets=SecretDict({"url": url.get_secret_value()}),
    )
    saved: Any = block.save(BLOCK_NAME, overwrite=True)
    return UUID(str(saved)), what, f"{action}d"


def _block(client: SyncPrefectClient, name: str, kind: str, include_secrets: bool = False) -> BlockDocument | None:
    try:
        return client.read_block_document_by_name(name, kind, include_secrets=include_secrets)
    except ObjectNotFound:
        return None
