"""Tokens in the code of a task."""

import json
from typing import Any

import pytest

from tests.support.history import History
from windlass import NotInRunError, Token, create_token, create_token_sync, gather, task, wait_for, wait_for_sync


def result_of(done: Any) -> Any:
    assert done.complete is not None, done.fail
    return json.loads(bytes(done.complete.result))


def test_a_token_is_the_same_after_a_replay_and_history_has_no_address() -> None:
    @task
    async def main() -> list[str]:
        token = await create_token(timeout="2h")
        return [token.id, token.url]

    history = History()
    first = result_of(history.run(main))
    assert first == ["id-of-create_token", "http://api/create_token.secret"]
    assert result_of(history.run(main, number=2)) == first
    assert {(asked.key, asked.timeout_ms) for asked in history.tokens} == {("create_token", 7_200_000)}
    assert "secret" not in str(history.steps)


def test_each_branch_has_a_token_of_its_own() -> None:
    @task
    async def main() -> list[str]:
        return [token.id for token in await gather(create_token(), create_token())]

    assert len(set(result_of(History().run(main)))) == 2


def test_what_was_sent_is_the_result_of_the_wait() -> None:
    @task
    async def main() -> Any:
        return await wait_for(await create_token(), timeout="1d")

    history = History()
    history.run(main)
    wait = history.waits["wait_for"]
    assert (wait.kind, wait.target, wait.due_in_ms) == ("token", "id-of-create_token", 86_400_000)
    history.end_wait("wait_for", {"ok": True})
    assert result_of(history.run(main, number=2)) == {"ok": True}


def test_synchronous_code_makes_tokens_and_waits_for_one_by_its_id() -> None:
    @task
    def main() -> Any:
        return wait_for_sync(create_token_sync().id)

    history = History()
    history.run(main)
    history.end_wait("wait_for", None)
    assert result_of(history.run(main, number=2)) is None


def test_a_token_shows_no_address_where_it_is_printed() -> None:
    assert repr(Token("a", "http://api/a.secret")) == "Token(id='a')"


def test_outside_a_run_there_is_no_token() -> None:
    with pytest.raises(NotInRunError):
        create_token_sync()


@pytest.mark.parametrize("token", ["", 7, None, "x" * 101])
def test_what_is_no_token_is_refused_where_it_is_written(token: Any) -> None:
    with pytest.raises(ValueError, match="Token or the id"):
        wait_for_sync(token)
