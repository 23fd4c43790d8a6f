"""Telling people of a spike, through Prefect's own events: `k2.spike.malignant`, `k2.spike.asked`, `k2.spike.healed`.

What enters is an incident or a verdict; what leaves is an event, to which any automation may be bound. One is ours: where
`K2_NOTIFY_URL` was set for `k2 up`, `flows.deploy` registers a webhook there (a Slack or Mattermost address, or any that takes
JSON). An event that cannot be sent harms no run.
"""

import logging
import os
from typing import TYPE_CHECKING, Any, Literal

from flows.prefect_api import server_answers
from k2.run.layout import RunLayout

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

NOTIFY_URL = "K2_NOTIFY_URL"
_NAME = "k2-spike-notification"
_EVENTS = "k2.spike.*"
_PAYLOAD = '{"text": {{ event.payload["text"] | tojson }}, "event": {{ event.event | tojson }}, "run": {{ event.payload["run"] | tojson }}}'
_CRASHED_NAME, _CRASHED = "k2-silence-notification", "prefect.flow-run.Crashed"
_CRASHED_PAYLOAD = (
    '{"text": {{ (event.resource["prefect.resource.name"] ~ " has lost its process, or was silent for too long; '
    'its training can be resumed with `k2 resume`") | tojson }}, "event": {{ event.event | tojson }}, '
    '"run": {{ event.resource["prefect.resource.name"] | tojson }}}'
)
_LOG = logging.getLogger(__name__)

What = Literal["malignant", "asked", "healed"]


def tell_spike(layout: RunLayout, what: What, text: str, **numbers: int | float | str) -> None:
    """Emit the event, where a server is there to take it. `text` is a sentence for a person."""
    if not server_answers():
        return
    from prefect.events import emit_event

    resource = {"prefect.resource.id": f"k2.run.{layout.name}", "prefect.resource.name": layout.name}
    try:
        emit_event(f"k2.spike.{what}", resource, payload={"run": layout.name, "text": f"{layout.name}: {text}", **numbers})
    except Exception as error:  # the boundary to the orchestrator: what it cannot pass on does not matter to a run
        _LOG.warning("the event k2.spike.%s could not be sent (%s)", what, error)


def register_notification(client: "SyncPrefectClient") -> None:
    """Bind the webhook of `K2_NOTIFY_URL` to spikes and to crashed flow runs; unbind it where none is named any more.

    May be called again. A flow run whose heartbeats stay away is crashed by the automation of `flows.deploy`: so silence is told too.
    """
    for name in (_NAME, _CRASHED_NAME):
        for automation in client.read_automations_by_name(name):
            client.delete_automation(automation.id)
    url = os.environ.get(NOTIFY_URL)
    if url:
        client.create_automation(_automation(url, _NAME, _EVENTS, _PAYLOAD))
        client.create_automation(_automation(url, _CRASHED_NAME, _CRASHED, _CRASHED_PAYLOAD))


def _automation(url: str, name: str, events: str, payload: str) -> Any:
    from uuid import UUID

    from prefect.blocks.webhook import Webhook
    from prefect.events.actions import CallWebhook
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.types import SecretDict
    from pydantic import SecretStr

    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{NOTIFY_URL} = {url!r} is no address: it must begin with http:// or https://")
    block = Webhook(method="POST", url=SecretStr(url), headers=SecretDict({"content-type": "application/json"}))
    document = block.save(_NAME, overwrite=True)
    call = CallWebhook(block_document_id=UUID(str(document)), payload=payload)
    trigger = EventTrigger(expect={events}, posture=Posture.Reactive, threshold=1)
    return AutomationCore(
        name=name, description=f"Posts every {events} event to the address in {NOTIFY_URL}.", trigger=trigger, actions=[call]
    )
