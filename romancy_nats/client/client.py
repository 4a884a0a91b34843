"""Starts workflows and speaks with their instances. Knows the ports, not the server."""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar, cast, overload

from romancy_nats.client.handle import WorkflowHandle
from romancy_nats.client.info import InstanceInfo, instance_info
from romancy_nats.client.notice import OutcomeNotice
from romancy_nats.client.result import untyped
from romancy_nats.client.session import OwnStart, Session, Target
from romancy_nats.core.cloudevents import made_event
from romancy_nats.core.definition import Workflow
from romancy_nats.core.headers import CONTENT_TYPE, MESSAGE_ID, NOTIFY, TOKEN
from romancy_nats.core.ids import InstanceKey, check_message_id
from romancy_nats.core.parameters import fingerprint
from romancy_nats.core.payload import ResultReader, ValueCodec
from romancy_nats.core.selection import Moment, Selection, Statuses
from romancy_nats.core.start_options import StartOptions
from romancy_nats.core.starting import write_start
from romancy_nats.errors import (
    InstanceConflictError,
    PayloadError,
    PayloadTooLargeError,
    StartRejectedError,
)
from romancy_nats.ports import World
from romancy_nats.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Client:
    """A client of one namespace. Get one from `Client.connect`, `app.run()` or a test environment."""

    def __init__(self, world: World) -> None:
        self._session = Session(world)

    @staticmethod
    def connect(
        url: str | None = None, *, namespace: str | None = None, settings: Settings | None = None
    ) -> AbstractAsyncContextManager[Client]:
        """Connect to a server: the URL given here, or in the settings.

        Without URL and settings they are those of the worker around (in a lifespan or an activity), else of the
        environment.

        Connecting and reading make no streams; the first start, message or event makes those that are missing.
        Raises ConfigurationError without any URL. The first write raises StreamMissingError when streams are missing
        and may not be made.
        """
        return _connected(url, namespace, settings)

    @overload
    async def start(
        self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start(self, workflow: str, /, *args: object, **kwargs: object) -> WorkflowHandle[Any]: ...
    async def start(self, workflow: Any, /, *args: Any, **kwargs: Any) -> WorkflowHandle[Any]:
        """Start an instance; returns once that is durable. The same id twice is the same instance.

        Raises StartRejectedError when the arguments do not fit (nothing is sent), InstanceConflictError when the id
        exists with another input.
        """
        if isinstance(workflow, str):
            key = InstanceKey(workflow, self._session.world.chance.id())
            body = {"args": builtins.list(args), "kwargs": kwargs}
            return await start_plain(self._session, key, body, named=False)
        return await self._start(cast("Workflow[..., Any]", workflow), args, kwargs)

    @overload
    async def execute(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def execute(self, workflow: str, /, *args: object, **kwargs: object) -> Any: ...
    async def execute(self, workflow: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Start an instance and wait for its result; raises what `handle.result` raises."""
        handle = await self.start(workflow, *args, **kwargs)
        return await handle.result()

    @overload
    def get(self, id: str, workflow: Workflow[..., R]) -> WorkflowHandle[R]: ...
    @overload
    def get(self, id: str, workflow: str | None = None, *, result_type: type[T]) -> WorkflowHandle[T]: ...
    @overload
    def get(self, id: str, workflow: str | None = None, result_type: None = None) -> WorkflowHandle[Any]: ...
    def get(
        self,
        id: str,
        workflow: Workflow[..., Any] | str | None = None,
        result_type: Any = None,
    ) -> WorkflowHandle[Any]:
        """A handle of an instance by id; whether it exists shows when something is awaited on it."""
        if isinstance(workflow, Workflow):
            return WorkflowHandle(Target(self._session, id, workflow.name), workflow.result)
        codec = untyped() if result_type is None else ResultReader[Any](result_type)
        return WorkflowHandle(Target(self._session, id, workflow), codec)

    async def list(
        self,
        *,
        workflow: Workflow[..., Any] | str | None = None,
        status: Statuses | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[InstanceInfo]:
        """Instances, in no order: of one workflow, one or several statuses, created in [since, until), with attributes.

        What nobody claimed yet is `queued`. `since` and `until` are a datetime, a timedelta (so long ago) or text:
        ISO 8601, "2h", "3d". Raises ConfigurationError when a filter cannot be read.
        """
        name = workflow.name if isinstance(workflow, Workflow) else workflow
        now = datetime.fromtimestamp(self._session.world.clock.now(), UTC)
        wanted = Selection.of(now, status, since, until, attributes)
        async for key, record in self._session.instances(name, wanted.statuses):
            info = instance_info(key, record)
            if wanted.takes(info.status, info.created_at, info.attributes):
                yield info

    async def count(
        self,
        *,
        workflow: Workflow[..., Any] | str | None = None,
        status: Statuses | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> int:
        """How many instances `list` would give."""
        number = 0
        found = self.list(workflow=workflow, status=status, since=since, until=until, attributes=attributes)
        async for _ in found:
            number += 1
        return number

    async def send_event(
        self,
        type: object,
        data: object = None,
        *,
        source: str = "romancy",
        key: str | None = None,
        message_id: str | None = None,
        id: str | None = None,
        time: datetime | str | None = None,
        extensions: Mapping[str, object] | None = None,
    ) -> None:
        """Publish an event; returns once it is durable. `message_id` makes sending it twice harmless.

        `type` is text, or an event object of the `cloudevents` package, whose attributes and data count then.
        Raises PayloadError, InvalidNameError, StorageError.
        """
        if message_id is not None:
            check_message_id(message_id)
        world = self._session.world
        fresh = world.chance.id()
        event = made_event(
            type,
            data,
            id=id or message_id or fresh,
            source=source,
            key=key,
            time=time or datetime.fromtimestamp(world.clock.now(), UTC),
            extensions=extensions or {},
            most=world.limits.value,
        )
        # Without an id of the user's it is still one event, however often it has to be sent.
        await self._session.publish_event(event, message_id or fresh)

    # --- starting

    async def _start(
        self, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> WorkflowHandle[Any]:
        try:
            input = workflow.parameters.encode(args, kwargs)
            workflow.parameters.decode(input)
        except PayloadError as error:
            raise StartRejectedError(str(error), workflow=workflow.name) from error
        session, options = self._session, workflow.start_options
        check_size(session, workflow.name, input)
        key = InstanceKey(workflow.name, options.id if options.id is not None else session.world.chance.id())
        mark = fingerprint(input)
        if options.id is not None and await self._exists(key, mark, options.on_conflict):
            return WorkflowHandle(Target(session, key.id, key.workflow, fingerprint=mark), workflow.result)
        notice = OutcomeNotice()
        inbox, give_up = session.world.wire.expect(notice)
        headers = write_start(workflow, key, input, session.world.chance.id(), notify=inbox)
        sequence = await session.start(key, input, headers)
        own = OwnStart(sequence, options.on_conflict, options.id is not None)
        target = Target(session, key.id, key.workflow, own=own, fingerprint=mark)
        return WorkflowHandle(target, workflow.result, notice=notice, give_up=give_up)

    async def _exists(self, key: InstanceKey, mark: str, on_conflict: str) -> bool:
        held = await self._session.record_if_allowed(key)
        if held is None or (on_conflict == "restart_ended" and held.record.status.ended):
            return False
        if on_conflict == "fail" or (held.record.fingerprint and held.record.fingerprint != mark):
            raise InstanceConflictError(key.id, key.workflow)
        return on_conflict != "restart_ended"


def session_of(client: Client) -> Session:
    """The session behind a client, for the rest of this package."""
    return client._session  # pyright: ignore[reportPrivateUsage]


async def start_plain(
    session: Session,
    key: InstanceKey,
    body: object,
    codec: ValueCodec[Any] | None = None,
    options: StartOptions | None = None,
    *,
    named: bool = True,
) -> WorkflowHandle[Any]:
    """Start a workflow by name with a plain body, as a bare message would; its worker checks the arguments.

    `named` is False for an id that was made up and is nobody else's.
    """
    try:
        data = untyped().encode(body)
    except PayloadError as error:
        raise StartRejectedError(str(error), workflow=key.workflow) from error
    check_size(session, key.workflow, data)
    options = options or StartOptions()
    notice = OutcomeNotice()
    inbox, give_up = session.world.wire.expect(notice)
    headers = {
        TOKEN: key.id_token,
        CONTENT_TYPE: "application/msgpack",
        NOTIFY: inbox,
        MESSAGE_ID: f"{key.token}:{fingerprint(data)}",
        **options.headers(),
    }
    sequence = await session.start(key, data, headers)
    own = OwnStart(sequence, options.on_conflict, named=named)
    target = Target(session, key.id, key.workflow, own=own)
    return WorkflowHandle(target, codec or untyped(), notice=notice, give_up=give_up)


def check_size(session: Session, workflow: str, input: bytes) -> None:
    """Raise StartRejectedError for an input that no message can carry."""
    most = session.world.limits.value
    if len(input) > most:
        too_large = PayloadTooLargeError(f"the input of {workflow!r}", len(input), most)
        raise StartRejectedError(str(too_large), workflow=workflow) from too_large


@asynccontextmanager
async def _connected(
    url: str | None, namespace: str | None, settings: Settings | None
) -> AsyncGenerator[Client]:
    from romancy_nats.composition import connect_client_world, surrounding_settings

    if settings is None:
        settings = surrounding_settings() if url is None else Settings()
    async with connect_client_world(settings, url=url, namespace=namespace) as world:
        yield Client(world)
