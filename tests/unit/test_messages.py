"""What becomes of requests that do not come to their end."""

import pytest
from starlette.requests import Request
from starlette.types import Message

from windlass_operator.api import errors
from windlass_operator.api.messages import CallerGoneError, read_body


async def test_a_caller_that_dies_in_the_middle_of_a_request_is_no_fault_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": b'{"payl', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    logged: list[str] = []
    monkeypatch.setattr(errors.log, "error", lambda event, **_: logged.append(event))
    with pytest.raises(CallerGoneError) as caught:
        await read_body(Request({"type": "http", "method": "POST", "headers": []}, receive), 1000)
    assert errors.error_response(caught.value).status_code == 499
    assert logged == []
