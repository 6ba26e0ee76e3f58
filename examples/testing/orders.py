"""An order: charged, shipped after a person's approval, and followed up a month later."""

import shop
from pydantic import BaseModel

from windlass import Retry, sleep, step, task, wait_for_approval, wait_for_event


class Order(BaseModel):
    """What a customer has bought."""

    id: int
    amount: float


@step(retry=Retry(max_attempts=3, min_delay="10s"))
async def charge(order: Order) -> str:
    return shop.charge(order.id, order.amount, idempotency_key=step.idempotency_key)


@step
async def ask_for_review(order: Order) -> None:
    shop.mail(f"How do you like order {order.id}?", idempotency_key=step.idempotency_key)


@task
async def process_order(order: Order) -> str:
    if order.amount > 1000:
        decision = await wait_for_approval(f"Charge {order.amount} EUR?", timeout="2d")
        if not decision.approved:
            return "refused"
    receipt = await charge(order)
    delivered = await wait_for_event("delivered", {"order": order.id}, timeout="14d")
    await sleep("30d")
    await ask_for_review(order)
    return f"{receipt}, delivered to {delivered.payload['to']}"
