"""The addresses of tokens: who has one completes it once, and nobody learns anything by trying."""

from datetime import timedelta
from typing import Any

import pytest

from tests.support.rest import Answer, Rest
from windlass import protocol
from windlass_operator import metrics


async def a_token(rest: Rest, *, lasts: timedelta = timedelta(hours=1), key: str = "create_token") -> tuple[str, str]:
    """Return the path of a new token's address, and the credential of the attempt that made it."""
    await rest.trigger({})
    [attempt] = await rest.world.claim(claim_id=f"claim-{key}")
    request = protocol.CreateTokenRequest(key=key, timeout_ms=lasts.total_seconds() * 1000)
    made = await rest.world.tokens.create(attempt.token, request)
    return made.url.removeprefix("http://windlass.example"), attempt.token


async def post(rest: Rest, path: str, data: bytes | None = b"", **more: Any) -> Answer:
    return await rest.call("POST", path, token=None, data=data, **more)


def counted(outcome: str) -> float:
    return metrics.REGISTRY.get_sample_value("windlass_callbacks_total", {"outcome": outcome}) or 0


async def test_whoever_has_the_address_completes_the_token_without_any_other_credential(rest: Rest) -> None:
    path, _ = await a_token(rest)
    answer = await post(rest, path, b'{"ok": true}')
    assert (answer.status, answer.json["completed"]) == (200, True)
    assert answer.json["token"] in path
    assert [row["value"] for row in await rest.world.database.fetch("SELECT value FROM token")] == ['{"ok":true}']


async def test_a_repeat_is_answered_as_the_first_and_another_value_is_a_conflict(rest: Rest) -> None:
    path, _ = await a_token(rest)
    first = await post(rest, path, b'{"a": 1, "b": 2}')
    again = await post(rest, path, b'{"b":2,"a":1}')
    assert (again.status, again.text) == (first.status, first.text)
    assert (await post(rest, path, b'{"a": true, "b": 2}')).error[:2] == (409, "TokenCompleted")
    assert (await post(rest, path)).error[:2] == (409, "TokenCompleted")


async def test_an_empty_body_is_null_and_any_declared_type_will_do(rest: Rest) -> None:
    path, _ = await a_token(rest)
    answer = await post(rest, path, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status == 200
    assert [row["value"] for row in await rest.world.database.fetch("SELECT value FROM token")] == ["null"]


async def test_a_wrong_secret_an_unknown_id_and_nonsense_are_told_the_same(rest: Rest) -> None:
    path, _ = await a_token(rest)
    wrong = path[:-1] + ("A" if path[-1] != "A" else "B")
    unknown = "/callbacks/v1/00000000-0000-7000-8000-000000000000." + path.rpartition(".")[2]
    others = [
        wrong,
        unknown,
        path.rpartition(".")[0],
        path + "x",
        "/callbacks/v1/x",
        path.replace(".", "%2E"),
    ]
    before = counted("unknown")
    answers = [await post(rest, other, b"{") for other in others[:-1]]
    assert {(answer.status, answer.text) for answer in answers} == {
        (404, '{"code":"TokenNotFound","message":"There is no token at this address."}')
    }
    assert counted("unknown") == before + len(answers)
    assert (await post(rest, others[-1], b"1")).status == 200, "a point may be written as %2E"
    assert (await post(rest, "/callbacks/v1/")).status == 404


async def test_nothing_but_a_post_completes_a_token(rest: Rest) -> None:
    path, _ = await a_token(rest)
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
        assert (await rest.call(method, path, token=None)).status == 405, "a preview of the link must not"
    assert [row["value"] for row in await rest.world.database.fetch("SELECT value FROM token")] == [None]


async def test_the_body_is_capped_and_is_json(rest: Rest) -> None:
    path, _ = await a_token(rest)
    assert (await post(rest, path, b'"' + b"x" * 65_535 + b'"')).error[:2] == (413, "PayloadTooLarge")
    assert (await post(rest, path, b"{a: 1}")).error[:2] == (422, "PayloadInvalid")
    assert (await post(rest, path, b'{"a": 1, "a": 2}')).error[:2] == (422, "PayloadInvalid")
    assert (await post(rest, path, b'"' + b"x" * 65_534 + b'"')).status == 200


async def test_a_body_is_read_only_for_who_has_the_secret(rest: Rest) -> None:
    path, _ = await a_token(rest)
    assert (await post(rest, path[:-2] + "zz", b"x" * 100_000)).error[:2] == (404, "TokenNotFound")


async def test_a_token_that_has_expired_or_whose_run_has_ended_is_gone(rest: Rest) -> None:
    path, _ = await a_token(rest, lasts=timedelta(0))
    assert (await post(rest, path, b"1")).error[:2] == (410, "TokenEnded")
    path, credential = await a_token(rest, key="other")
    await rest.world.attempts.complete(credential, protocol.CompleteRequest())
    assert (await post(rest, path, b"1")).error == (
        410,
        "TokenEnded",
        "Its run has ended: the token cannot be completed any more.",
    )


async def test_a_repeat_after_the_end_of_the_run_is_still_answered_as_the_first(rest: Rest) -> None:
    path, credential = await a_token(rest)
    await post(rest, path, b"1")
    await rest.world.attempts.complete(credential, protocol.CompleteRequest())
    assert (await post(rest, path, b"1")).status == 200


async def test_the_secret_stands_in_no_metric_no_log_and_no_table(
    rest: Rest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = await a_token(rest)
    secret = path.rpartition(".")[2]

    await post(rest, path, b"{")
    await post(rest, path, b"1")

    async def broken(*_: Any) -> None:
        raise RuntimeError("something that nobody expected")

    with monkeypatch.context() as patch:
        patch.setattr(rest.world.tokens, "complete", broken)
        assert (await post(rest, path, b"1")).status == 500
    assert secret not in (await rest.call("GET", "/metrics", token=None)).text
    assert 'route="/callbacks/v1/{token}"' in (await rest.call("GET", "/metrics", token=None)).text
    written = capsys.readouterr()
    assert secret not in written.out + written.err
    for table in ("token", "step", "event", "project"):
        assert secret not in str(await rest.world.database.fetch(f"SELECT * FROM {table}"))  # noqa: S608 - a test's own word


async def test_a_wait_gets_what_was_sent_before_it_and_what_is_sent_after_it(rest: Rest) -> None:
    path, credential = await a_token(rest)
    token_id = path.removeprefix("/callbacks/v1/").partition(".")[0]
    before = protocol.Wait(key="a", name="wait_for", args_hash="a", kind="token", target=token_id)
    after = protocol.Wait(key="b", name="wait_for", args_hash="a", kind="token", target=token_id)
    assert (await rest.world.waits.register(credential, protocol.WaitsRequest(waits=[before]))).over == []
    await post(rest, path, b'{"n": 1}')
    answer = await rest.world.waits.register(credential, protocol.WaitsRequest(waits=[after], keys=["a"]))
    assert [(step.state, bytes(step.result)) for step in answer.over] == [("succeeded", b'{"n":1}')] * 2


async def test_a_wait_for_no_token_or_for_one_that_has_ended_fails_at_once(rest: Rest) -> None:
    path, credential = await a_token(rest, lasts=timedelta(0))
    ended = path.removeprefix("/callbacks/v1/").partition(".")[0]
    waits = [
        protocol.Wait(key=target, name="wait_for", args_hash="a", kind="token", target=target)
        for target in (ended, "00000000-0000-7000-8000-000000000000", "nonsense")
    ]
    over = (await rest.world.waits.register(credential, protocol.WaitsRequest(waits=waits))).over
    assert [(step.state, step.error and step.error.type) for step in over] == [
        ("failed", "WaitTimeoutError"),
        ("failed", "TokenNotFound"),
        ("failed", "TokenNotFound"),
    ]
