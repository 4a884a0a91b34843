"""Ephemeral messages: questions and answers, notices, followed commits."""

from __future__ import annotations

import asyncio

from romancy_nats.ports import Answerer
from tests.conformance.stage import Play, Stage, record, stored


async def shout(question: bytes) -> bytes:
    return question.upper()


def test_a_question_is_answered(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        me = f"{stage.name}-1"
        stop = await stage.first.wire.serve(me, shout)

        async def answered() -> bool:
            return await stage.second.wire.ask(me, b"hello", 1) == b"HELLO"

        await stage.until(answered)
        await stop()

        async def silent() -> bool:
            return await stage.second.wire.ask(me, b"hello", 1) is None

        await stage.until(silent)

    play(scenario)


def test_nobody_there_is_known_at_once(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        async with asyncio.timeout(30):
            assert await stage.first.wire.ask(f"{stage.name}-nobody", b"hello", 60) is None

    play(scenario)


def test_an_answer_that_takes_too_long_is_none(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        me = f"{stage.name}-1"
        asked = asyncio.Event()

        async def never(_: bytes) -> bytes:
            asked.set()
            await asyncio.Event().wait()
            return b""

        stop = await stage.first.wire.serve(me, never)

        async def reached() -> bool:
            assert await stage.second.wire.ask(me, b"hello", 0.5) is None
            return asked.is_set()

        await stage.until(reached)
        await stop()

    play(scenario)


def test_questions_are_answered_side_by_side(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        me = f"{stage.name}-1"
        second_came = asyncio.Event()

        async def answer(question: bytes) -> bytes:
            if question == b"second":
                second_came.set()
            elif question == b"first":
                await second_came.wait()
            return question

        stop = await stage.first.wire.serve(me, answer)

        async def served() -> bool:
            return await stage.second.wire.ask(me, b"probe", 1) == b"probe"

        await stage.until(served)
        answers = await asyncio.gather(
            stage.second.wire.ask(me, b"first", 3), stage.second.wire.ask(me, b"second", 3)
        )
        assert answers == [b"first", b"second"]
        await stop()

    play(scenario)


def test_a_notice_reaches_its_inbox(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        heard: list[bytes] = []
        inbox, close = stage.first.wire.expect(heard.append)
        stage.second.wire.notify(inbox, b"done")

        async def came() -> bool:
            return heard == [b"done"]

        await stage.until(came)
        close()
        close()

    play(scenario)


def test_a_given_up_inbox_hears_nothing(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        given_up: list[bytes] = []
        heard: list[bytes] = []
        inbox, close = stage.first.wire.expect(given_up.append)
        close()
        other, _ = stage.first.wire.expect(heard.append)
        assert other != inbox
        stage.second.wire.notify(inbox, b"lost")
        stage.second.wire.notify(other, b"done")

        async def came() -> bool:
            return heard == [b"done"]

        await stage.until(came)
        assert given_up == []

    play(scenario)


def test_only_inboxes_are_notified(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        asked: list[bytes] = []
        me = f"{stage.name}-1"

        async def listen(question: bytes) -> bytes:
            asked.append(question)
            return b""

        stop = await stage.first.wire.serve(me, listen)
        for subject in (
            "",
            "x",
            ">",
            "_INBOX.*",
            "_INBOX.>",
            f"romancy.worker.{me}",
            "$JS.API.STREAM.DELETE.x",
        ):
            stage.second.wire.notify(subject, b"bad")
        await asyncio.sleep(0.2)
        assert asked == []
        await stop()

    play(scenario)


def test_commits_are_followed(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        key, other = stage.key("a"), stage.key("b")
        seen: list[tuple[int, int]] = []
        stop = await stage.second.wire.follow(key, lambda generation, n: seen.append((generation, n)))
        fence = stored(await stage.first.ledger.write(key, record(), 0))
        foreign = stored(await stage.first.ledger.write(other, record(), 0))
        numbers = iter(range(1, 1000))

        async def heard() -> bool:
            stored(await stage.append(stage.first, key, next(numbers), b"x", fence))
            return bool(seen)

        await stage.until(heard)
        start = len(seen)
        stored(await stage.append(stage.first, other, 1, b"x", foreign))
        last = next(numbers)
        stored(await stage.append(stage.first, key, last, b"x", fence))

        async def came() -> bool:
            return (0, last) in seen[start:]

        await stage.until(came)
        assert seen == sorted(seen)
        await stop()
        stored(await stage.append(stage.first, key, next(numbers), b"x", fence))
        await asyncio.sleep(0.2)
        assert seen[-1] == (0, last)

    play(scenario)


def test_a_shared_question_goes_to_one_of_several(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        asked: list[str] = []

        def answerer(name: str) -> Answerer:
            async def answer(question: bytes) -> bytes:
                asked.append(name)
                return question.upper()

            return answer

        async def silent() -> bool:
            return await stage.first.wire.ask(stage.workflow, b"x", 1, shared=True) is None

        assert await silent()
        stops = [
            await stage.first.wire.serve(stage.workflow, answerer("first"), shared=True),
            await stage.second.wire.serve(stage.workflow, answerer("second"), shared=True),
        ]

        async def both() -> bool:
            before = len(asked)
            assert await stage.second.wire.ask(stage.workflow, b"x", 1, shared=True) in (b"X", None)
            assert len(asked) <= before + 1
            return set(asked) == {"first", "second"}

        await stage.until(both)
        await stops[0]()
        asked.clear()

        async def second_alone() -> bool:
            asked.clear()
            for _ in range(5):
                await stage.first.wire.ask(stage.workflow, b"x", 1, shared=True)
            return asked == ["second"] * 5

        await stage.until(second_alone)
        await stops[1]()
        await stage.until(silent)

    play(scenario)


def test_a_shared_name_is_no_incarnation(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        stop = await stage.first.wire.serve(stage.name, shout, shared=True)

        async def answered() -> bool:
            return await stage.second.wire.ask(stage.name, b"x", 1, shared=True) == b"X"

        await stage.until(answered)
        assert await stage.second.wire.ask(stage.name, b"x", 1) is None
        await stop()

    play(scenario)


def test_announcements_reach_those_who_follow(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        key, other = stage.key("a"), stage.key("b")
        heard: list[bytes] = []
        stop = await stage.second.wire.follow(key, lambda _generation, _n: None, heard.append)
        deaf = await stage.second.wire.follow(key, lambda _generation, _n: None)

        async def first() -> bool:
            stage.first.wire.announce(other, b"not for them")
            stage.first.wire.announce(key, b"one")
            await asyncio.sleep(0.02)
            return bool(heard)

        await stage.until(first)
        stage.first.wire.announce(key, b"last")

        async def came() -> bool:
            return heard[-1] == b"last"

        await stage.until(came)
        assert set(heard) == {b"one", b"last"}
        await stop()
        await deaf()
        stage.first.wire.announce(key, b"unheard")
        await asyncio.sleep(0.2)
        assert heard[-1] == b"last"

    play(scenario)


def test_whether_a_workflow_is_served(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        async def answer(question: bytes) -> bytes:
            return question

        assert await stage.second.wire.served(stage.workflow, 5) is False
        stop = await stage.first.wire.serve(stage.workflow, answer, shared=True)

        async def served() -> bool:
            return await stage.second.wire.served(stage.workflow, 5) is True

        await stage.until(served)
        await stop()

        async def over() -> bool:
            return await stage.second.wire.served(stage.workflow, 5) is False

        await stage.until(over)

    play(scenario)
