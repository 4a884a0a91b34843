"""Talking to a running workflow: messages in order, updates with an answer, queries."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from romancy_nats import App, UpdateRejectedError, WorkflowContext, activity, workflow


class Item(BaseModel):
    name: str
    price: int


@activity
async def charge(customer: str, total: int) -> str:
    return f"{customer} paid {total}"


@workflow
async def cart(ctx: WorkflowContext, customer: str) -> str:
    items: list[Item] = []

    def total() -> int:
        return sum(item.price for item in items)

    def must_be_there(name: str) -> None:
        if name not in [item.name for item in items]:
            raise ValueError(f"there is no {name} in the cart")

    def remove(name: str) -> int:
        items[:] = [item for item in items if item.name != name]
        return total()

    ctx.on_query("total", total)
    ctx.on_update("remove", remove, validate=must_be_there)
    while True:
        message = await ctx.receive("shopping")
        if message.data == "checkout":
            break
        items.append(Item.model_validate(message.data))
    return await ctx.run(charge, customer, total())


app = App("cart", workflows=[cart])


async def main() -> None:
    async with app.run() as client:
        handle = await client.start(cart.options(id="cart-1"), "Ann")
        await handle.send("shopping", {"name": "tea", "price": 4})
        await handle.send("shopping", {"name": "cake", "price": 6})
        await handle.send("shopping", {"name": "pony", "price": 5000})
        while await handle.query("total") < 5010:
            await asyncio.sleep(0.02)
        print("total:", await handle.query("total"))
        print("without the pony:", await handle.update("remove", "pony"))
        try:
            await handle.update("remove", "pony")
        except UpdateRejectedError as error:
            print("again:", error)
        print("the same update twice:", await handle.update("remove", "cake", message_id="no-cake"))
        print("answers the same:", await handle.update("remove", "cake", message_id="no-cake"))
        await handle.send("shopping", "checkout")
        print(await handle.result())
        print("still to be asked:", await handle.query("total"))


if __name__ == "__main__":
    asyncio.run(main())
