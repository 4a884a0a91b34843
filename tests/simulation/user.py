"""What users say to instances while they run, and what they were told about it. Checks nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from romancy_nats import Client, InstanceEndedError, UpdateFailedError, UpdateRejectedError, WorkflowHandle
from romancy_nats.core.ids import InstanceKey
from romancy_nats.errors import RomancyError
from tests.simulation.case import Said, Told
from tests.simulation.kept import Kept
from tests.simulation.program import MISFIT
from tests.simulation.waits import AT_THE_END, AT_THE_WAIT, Sending

_LOST_PATIENCE = 1.0


@dataclass(slots=True)
class Speaker:
    """Says what a plan has for one instance."""

    client: Client
    handle: WorkflowHandle[str]
    told: Told
    kept: Kept

    @property
    def _key(self) -> InstanceKey:
        return InstanceKey(self.handle.workflow or "", self.handle.id)

    def _over(self) -> bool:
        return bool(self.told.outcome)

    def _is_time(self, sending: Sending) -> bool:
        token = self._key.token
        if sending.after == AT_THE_WAIT:
            return (token, sending.name) in self.kept.begun
        if sending.after == AT_THE_END:
            return token in self.kept.ending
        return self.kept.grown.get(token, 0) >= sending.after

    async def say(self, sending: Sending) -> None:
        """At its time; a thing said without end ends with the instance."""
        await self.kept.until(self._key, lambda: self._over() or self._is_time(sending))
        while True:
            await asyncio.sleep(sending.delay)
            if self._over():
                return
            await self._once(sending)
            if not sending.again_every:
                return

    async def _once(self, sending: Sending) -> None:
        number = self.told.numbers = self.told.numbers + 1
        value = f"{self.told.id}/{sending.kind}{number}"
        if sending.misfit or (sending.kind in ("event", "update") and number % 5 == 0):
            value += MISFIT
        said = Said(sending.kind, value)
        while not await self._tried(sending, said):
            await asyncio.sleep(_LOST_PATIENCE)
        self.told.said.append(said)

    async def _tried(self, sending: Sending, said: Said) -> bool:
        try:
            match sending.kind:
                case "event":
                    await self.client.send_event(
                        sending.name, said.value, key=sending.key, message_id=said.value
                    )
                case "message":
                    await self.handle.send(sending.name, said.value, message_id=said.value)
                case "update":
                    said.answer = await self._update(sending, said)
                case _:
                    self.told.cancelled = await self.handle.cancel("the user said so")
        except InstanceEndedError:
            said.refused = True
        except UpdateRejectedError as error:
            said.refused, said.error = True, str(error)
        except UpdateFailedError as error:
            said.error = str(error)
        except RomancyError:
            return False
        return True

    async def _update(self, sending: Sending, said: Said) -> Any:
        return await self.handle.update("put", said.value, sending.seconds, message_id=said.value)
