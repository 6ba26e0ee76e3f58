"""What ``checkpoint="auto"`` refuses while the module is imported: file, line, and what to write instead."""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.history import History
from windlass import task
from windlass.cli.manifests import manifests_of
from windlass.errors import LoadError
from windlass.execution import load_task

HEAD = """import asyncio
from asyncio import gather
from windlass import task
async def fetch(n=0): return n
"""


@pytest.fixture(autouse=True)
def _clean_modules() -> Iterator[None]:
    yield
    sys.modules.pop("of_the_user", None)


def module(body: str, signature: str = "async def main(items=()):") -> str:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f'{HEAD}@task(checkpoint="auto")\n{signature}\n{lines}'


def refusal(source: str) -> str:
    with pytest.raises(LoadError) as caught:
        load_task("of_the_user:main", source)
    assert caught.value.failure.reason == "EntrypointImportFailed"
    return caught.value.failure.message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("made = fetch(1)\nawait made", "`await made` waits for something that was called elsewhere"),
        ("x = 1\nawait (fetch(1) if items else fetch(2))", "Write the call behind `await`"),
        ("calls = [fetch(n) for n in items]\nawait gather(*calls)", "`*calls` was called elsewhere"),
        ("x = 1\nawait gather(*map(fetch, items))", "`*(f(x) for x in items)`"),
        ("x = 1\nawait asyncio.wait_for(x, 3)", "Write the calls in the arguments of asyncio.wait_for"),
        ("x = 1\nasyncio.create_task(fetch(1))", "in `async with asyncio.TaskGroup() as group:`"),
        ("x = 1\nawait asyncio.wait(items)", "`asyncio.wait()` starts what nobody can make a step of"),
        ("loop = asyncio.get_running_loop()\nloop.create_task(fetch(1))", "`loop.create_task()` starts"),
        ("async with asyncio.TaskGroup() as group:\n    group.create_task(items)", "create_task(f(x))"),
        ("x = 1\nasync for item in items:\n    pass", "`async for` asks for its items again"),
        ("x = 1\nreturn [item async for item in items]", "for item in await read_all()"),
        ("x = 1\nreturn (item async for item in items)", "for item in await read_all()"),
        ("x = 1\nreturn (await fetch(n) for n in items)", "Write a list: [await f(x) ...]"),
        ("x = 1\nawait gather(*(fetch(await fetch(n)) for n in items))", "in a generator expression"),
        (
            "n = 0\nasync def add():\n    nonlocal n\n    n += 1\nawait add()",
            "add() changes 'n' of the function around it",
        ),
        ("x = 1\ndef late(n=await fetch()): return n", "Give the value a name first"),
        ("x = {}\nawait x['a/b'](1)", "cannot be a step's name. Give what is called a name first"),
    ],
)
def test_what_cannot_be_a_step_is_refused_with_its_line(body: str, said: str) -> None:
    message = refusal(module(body))
    assert said in message
    assert "TypeError: of_the_user.py:8: checkpoint='auto': " in message


def test_several_problems_are_counted() -> None:
    assert message_end(refusal(module("a = fetch()\nawait a\nawait a\nawait a"))) == "(and 2 more)"


def message_end(message: str) -> str:
    return " ".join(message.split()[-3:])


@pytest.mark.parametrize(
    ("signature", "body", "said"),
    [
        ("def main():", "return 1", "in a synchronous function there is no `await`"),
        ("async def main():", "yield 1", "an asynchronous generator, with `yield`, cannot be a task"),
        ("@kept\nasync def main():", "await fetch()", "Write @task as the lowest one."),
        ("@wrapped\nasync def main():", "await fetch()", "Write @task as the lowest one."),
        ("@bare\nasync def main():", "await fetch()", "another decorator has made the function"),
    ],
)
def test_functions_that_have_no_awaits_of_their_own_are_refused(signature: str, body: str, said: str) -> None:
    decorators = """
import functools
def kept(function):
    return function
def wrapped(function):
    @functools.wraps(function)
    async def around(*args): return await function(*args)
    return around
def bare(function):
    async def around(*args): return await function(*args)
    around.__code__ = around.__code__.replace(co_name="other")
    return around
"""
    message = refusal(decorators + module(body, signature))
    assert said in message
    assert "@task(checkpoint='auto') of '" in message


def test_a_wrapper_of_another_decorator_is_not_rewritten_in_place_of_the_function() -> None:
    body = """
def bare(function):
    async def around(*args): return await function(*args)
    return around
"""
    assert "write it as a decorator" in refusal(body + module("await fetch()", "@bare\nasync def main():"))


def test_another_decorator_above_and_a_task_of_another_name_are_fine() -> None:
    source = module("return await fetch(7)").replace("@task(", "@(lambda made: made)\n@windlass.task(")
    assert History().value(load_task("of_the_user:main", "import windlass\n" + source)) == 7


def test_options_may_be_given_in_any_way() -> None:
    source = module("return await fetch(7)").replace('@task(checkpoint="auto")', "@durable")
    durable = "import windlass\ndurable = windlass.task(**{'checkpoint': 'auto'})\n"
    assert History().value(load_task("of_the_user:main", durable + source)) == 7


def test_code_without_a_source_is_refused() -> None:
    names: dict[str, Any] = {}
    with pytest.raises(TypeError, match="its source is not there to be read"):
        exec(compile(module("await fetch()"), "<nowhere>", "exec"), names)  # noqa: S102 - source that nobody can read


def test_a_file_that_changed_since_it_was_imported_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "later.py"
    file.write_text(module("await fetch()"))
    code = compile(file.read_text(), str(file), "exec")
    file.write_text(module("await fetch()", "async def main(other):"))
    with pytest.raises(TypeError, match="no longer the one that was imported"):
        exec(code, {})  # noqa: S102 - as an import does
    file.write_text("(")
    with pytest.raises(TypeError, match="no longer the one that was imported"):
        exec(code, {})  # noqa: S102 - as an import does


@pytest.mark.parametrize("value", ["Auto", True, "none", ""])
def test_another_value_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="the one value there is is 'auto'"):
        task(checkpoint=value)(functools.partial(print))


def test_manifests_have_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_the_user.py").write_text(module("return await fetch(7)"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = manifests_of("of_the_user", image="shop:1", inline=False, namespace=None)
    assert "name: main" in text
    assert "checkpoint" not in text
