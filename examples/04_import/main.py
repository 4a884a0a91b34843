"""Progress for whoever watches: emitted values, attempts, retries; and the history of an instance that has ended."""

from __future__ import annotations

import asyncio

from romancy_nats import App, RetryPolicy, WorkflowContext, activity, activity_context, workflow

PAGES = 3


@activity(retry=RetryPolicy(max_attempts=3, initial_interval=0.1))
async def fetch(page: int) -> list[int]:
    if page == 2 and activity_context().attempt == 1:
        raise ConnectionError("the line went dead")
    return [page * 10 + row for row in range(4)]


@activity
def store(rows: list[int]) -> int:
    for done in range(1, len(rows) + 1):
        activity_context().emit({"stored": done, "of": len(rows)})
    return len(rows)


@workflow
async def importing(ctx: WorkflowContext) -> int:
    rows: list[int] = []
    for page in range(1, PAGES + 1):
        found = await ctx.run(fetch, page)
        rows += found
        ctx.emit({"pages": page, "of": PAGES}, durable=True)
    return await ctx.run(store, rows)


app = App("import", workflows=[importing])


async def main() -> None:
    async with app.run() as client:
        handle = await client.start(importing.options(id="import-1"))
        print("live")
        async for item in handle.watch():
            if item.type == "Emitted":
                print(" ", item.data)
        print("result:", await handle.result())
        print("afterwards, from the history")
        async for item in handle.watch():
            if item.type == "Emitted":
                print(" ", item.data)
            elif item.type == "ActivityAttemptFailed":
                print("  attempt", item.data["attempt"], "of", item.data["id"], "failed")


if __name__ == "__main__":
    asyncio.run(main())
