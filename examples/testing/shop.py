"""What an order needs of the world outside."""


def charge(order: int, amount: float, *, idempotency_key: str) -> str:
    raise NotImplementedError("a payment provider")


def mail(text: str, *, idempotency_key: str) -> None:
    raise NotImplementedError("a mail server")
