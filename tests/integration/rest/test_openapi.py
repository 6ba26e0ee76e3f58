"""The OpenAPI document, held to what is served: by schemathesis, and by its own examples."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.approvals import a_question
from tests.support.rest import ALICE, Rest
from tests.support.world import SHOP, a_step
from windlass import protocol


async def document(rest: Rest) -> Any:
    return (await rest.call("GET", "/openapi.json", token=None)).json


def _operations(made: Any) -> Iterator[tuple[str, Any]]:
    for path in made["paths"].values():
        for operation in path.values():
            yield operation["operationId"], operation


async def test_every_route_has_words_examples_and_every_refusal(rest: Rest) -> None:
    made = await document(rest)
    assert made["openapi"] == "3.1.0"
    assert made["security"] == [{"kubernetes": []}]
    for name, operation in _operations(made):
        assert operation["summary"], name
        assert {"400", "401", "403", "404", "500", "503"} <= set(operation["responses"]), name
        for status, answer in operation["responses"].items():
            content = answer["content"]["application/json"]
            assert content.get("examples"), (name, status)
            assert answer["description"], (name, status)
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], (name, parameter["name"])


async def test_every_example_is_what_its_schema_says(rest: Rest) -> None:
    import jsonschema_rs

    made = await document(rest)
    for name, operation in _operations(made):
        bodies = [*operation["responses"].values(), operation.get("requestBody") or {"content": {}}]
        for content in (c for body in bodies for c in body["content"].values()):
            schema = {**content["schema"], "components": made["components"]}
            for example in content["examples"].values():
                assert not list(jsonschema_rs.validator_for(schema).iter_errors(example["value"])), (name, example)


@pytest.mark.timeout(180)
async def test_schemathesis_finds_nothing(rest: Rest, tmp_path: Path) -> None:
    run = (await rest.trigger({"payload": 7, "tags": ["eu"]})).json["id"]
    [attempt] = await rest.world.claim()
    await rest.world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("charge")]))
    line = protocol.LogLine(seq=1, stream="stdout", text="charging")
    await rest.world.steps.log(attempt.token, protocol.LogsRequest(lines=[line]))
    await rest.world.waits.register(attempt.token, protocol.WaitsRequest(waits=[a_question(details={"order": 7})]))
    ((approval,), _) = await rest.world.approvals.list_page(SHOP, frozenset(), before=None, limit=1)
    await rest.world.attempts.complete(attempt.token, protocol.CompleteRequest(result=msgspec.Raw(b"[1]")))
    # A run that has ended, or `wait` would wait.
    names = {"path.namespace": "shop", "path.task": "order", "path.run": run}
    names["path.approval"] = approval.name
    settings = "".join(f'"{name}" = "{value}"\n' for name, value in names.items())
    # Which cursors there are no schema can say: those that a list returned. Others are 400, as test_bad_input has it.
    accepted = '[[operations]]\ninclude-operation-id = "list_runs"\n[operations.checks.positive_data_acceptance]\n'
    accepted += 'expected-statuses = ["200", "400"]\n'
    # Nobody runs what it starts: to wait for that would be to wait for the whole of it.
    accepted += '[[operations]]\ninclude-operation-id = "trigger"\n[operations.parameters]\n"query.wait" = "0s"\n'
    (tmp_path / "schemathesis.toml").write_text(f"[parameters]\n{settings}{accepted}")
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "run", f"{rest.url}/openapi.json", "--header", f"Authorization: Bearer {ALICE}"]
    command += ["--seed", "7", "--generation-deterministic", "--max-examples", "40", "--max-time", "40", "--no-color"]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-8000:]
