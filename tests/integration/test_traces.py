"""One trace for each run, at a real receiver: from whoever asked for it to the steps and the user's own spans."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from tests.support.api_server import serving
from tests.support.otlp_receiver import Receiver, receiving
from tests.support.rest import ALICE, Rest, rest_api
from tests.support.runner import code, run_once
from tests.support.world import SHOP, World
from windlass.client import Client
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.ledger.database import Database
from windlass_operator.otlp import Exporter
from windlass_operator.services.recorder import Recorder

TRACE, CALLER = "ab" * 16, "cd" * 8
TWICE = RetryPolicy(max_attempts=2, min_delay=timedelta(0))
ORDER = """
@step
def charge(n):
    return n
@step
def ship():
    if current_run().attempt == 1:
        raise ValueError("no ship")
    return "shipped"
@task
def main(n=1):
    return [charge(n), ship()]
"""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found


@pytest.fixture
async def exporter(receiver: Receiver) -> AsyncIterator[Exporter]:
    assert receiver.url, "the exporter reads it from the environment"
    exporter = Exporter("1.2.3", "windlass-api")
    yield exporter
    await asyncio.to_thread(exporter.close)


@pytest.fixture
async def world(ledger_uri: str, exporter: Exporter) -> AsyncIterator[World]:
    database = Database(ledger_uri, size=12)
    await database.open()
    yield await World(database, Recorder(exporter.send)).start()
    await database.close()


async def trigger(rest: Rest, source: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Trigger as an application does that has a trace of its own."""
    rest.world.cluster.tasks[(SHOP.namespace, "order")] = code(source, retry=TWICE)
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{CALLER}-01")
    run = await asyncio.to_thread(Client(rest.url, ALICE, SHOP.namespace).trigger, "order", 7)
    return run.id


async def test_one_trace_leads_from_the_caller_over_a_retry_to_the_steps(
    world: World, exporter: Exporter, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rest_api(world) as rest:
        run_id = await trigger(rest, ORDER, monkeypatch)
        await run_once(world, rest.url)
        await run_once(world, rest.url)
    await asyncio.to_thread(exporter.flush)
    assert {span.trace_id for span in receiver.spans} == {TRACE}
    attempts = [("attempt 1", ["step charge", "step ship"]), ("attempt 2", ["step ship"])]
    assert receiver.tree(CALLER) == [("submit order", [("run order", attempts)])]
    run = receiver.named("run order")
    assert (run.failed, run.attributes["windlass.run_id"]) == (False, run_id)
    assert (run.attributes["windlass.state"], run.attributes["windlass.attempts"]) == ("Succeeded", 2)
    assert receiver.named("submit order").kind == "SPAN_KIND_SERVER"
    failed = receiver.named("attempt 1")
    assert (failed.failed, failed.attributes["error.type"]) == (True, "ValueError")
    assert failed.attributes["k8s.pod.name"].startswith("order-")
    assert [span.failed for span in receiver.spans if span.name == "step ship"] == [True, False]
    assert {span.service for span in receiver.spans} == {"windlass-api"}
    for span in receiver.spans:
        parent = next((other for other in receiver.spans if other.span_id == span.parent), span)
        # The submission ends before its run does; what the ledger timed lies within its parent.
        assert parent.start <= span.start <= span.end
        assert span.end <= parent.end or parent.name == "submit order"


async def test_no_span_carries_a_payload_a_result_or_the_text_of_an_error(
    world: World, exporter: Exporter, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "@step\ndef charge(n):\n    raise ValueError('card 4111')\n@task\ndef main(n):\n    return charge('4111')\n"
    )
    async with rest_api(world) as rest:
        await trigger(rest, source, monkeypatch)
        await run_once(world, rest.url)
        await run_once(world, rest.url)
    await asyncio.to_thread(exporter.flush)
    assert receiver.named("run order").failed
    assert "4111" not in json.dumps([span.attributes for span in receiver.spans])


async def test_the_users_own_spans_join_the_step_they_are_made_in(
    world: World, exporter: Exporter, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"""
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter("{receiver.url}/v1/traces")))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("shop")
@step
async def charge():
    with tracer.start_as_current_span("pay"):
        return 1
@task
async def main(n):
    with tracer.start_as_current_span("prepare"):
        pass
    return await charge()
"""
    async with rest_api(world) as rest:
        await trigger(rest, source, monkeypatch)
        _, output = await run_once(world, rest.url)
    await asyncio.to_thread(exporter.flush)
    attempt = ("attempt 1", ["prepare", ("step charge", ["pay"])])
    assert receiver.tree(CALLER) == [("submit order", [("run order", [attempt])])], output


async def test_a_run_that_nobody_traces_gets_a_trace_of_its_own(
    world: World, exporter: Exporter, receiver: Receiver
) -> None:
    async with serving(world) as url:
        run_id = await world.submit(code("@task\ndef main():\n    return 1\n"))
        await run_once(world, url)
    await asyncio.to_thread(exporter.flush)
    assert receiver.tree() == [("submit order", [("run order", ["attempt 1"])])]
    row = await world.get(run_id)
    assert row["traceparent"].split("-")[1] == receiver.spans[0].trace_id


async def test_a_caller_who_does_not_sample_is_obeyed(world: World, exporter: Exporter, receiver: Receiver) -> None:
    async with serving(world) as url:
        resource = world.create_run(traceparent=f"00-{TRACE}-{CALLER}-00")
        world.cluster.tasks[(SHOP.namespace, "order")] = code(ORDER)
        await world.imports.observe(resource)
        await run_once(world, url)
    await asyncio.to_thread(exporter.flush)
    assert receiver.spans == []


async def test_a_receiver_that_is_away_costs_spans_and_no_run(ledger_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    database = Database(ledger_uri)
    await database.open()
    exporter = Exporter("1.2.3", "windlass-api")
    world = await World(database, Recorder(exporter.send)).start()
    async with serving(world) as url:
        run_id = await world.submit(code("@task\ndef main():\n    return 1\n"))
        await run_once(world, url)
    assert (await world.get(run_id))["state"] == "Succeeded"
    await asyncio.to_thread(exporter.close)
    await database.close()
