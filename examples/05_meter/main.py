"""A workflow that never ends: after some readings it begins anew, so that its history stays short."""

from __future__ import annotations

import asyncio
import contextlib

from romancy_nats import App, WorkflowCancelledError, WorkflowContext, activity, workflow

READINGS_A_BILL = 3


@activity
async def bill(meter: str, number: int, used: int) -> None:
    print(f"{meter}: bill {number} for {used} kWh")


@workflow
async def meter(ctx: WorkflowContext, number: int = 1) -> None:
    readings = [(await ctx.receive("readings")).data for _ in range(READINGS_A_BILL)]
    await ctx.run(bill, ctx.instance_id, number, sum(readings))
    ctx.recur(number + 1)


app = App("meters", workflows=[meter])


async def main() -> None:
    async with app.run() as client:
        handle = await client.start(meter.options(id="meter-7"))
        for used in (4, 3, 5, 1, 1, 2, 9):
            await handle.send("readings", used)
        while (info := await handle.describe()).generation < 2:
            await asyncio.sleep(0.02)
        print("generation:", info.generation)
        for used in (8, 7):
            await handle.send("readings", used)
        while (info := await handle.describe()).generation < 3:
            await asyncio.sleep(0.02)
        await handle.cancel("moved out")
        with contextlib.suppress(WorkflowCancelledError):
            await handle.result()
        print("commits in its history:", len(await handle.history()))


if __name__ == "__main__":
    asyncio.run(main())
