"""Worker pools over REST."""

from dataclasses import replace

from tests.support.rest import Rest
from tests.support.worker_pools import PoolWorld, a_pooled_task
from tests.support.world import SHOP
from windlass_operator.ledger.projection import take_epoch


async def test_pools_are_listed_with_their_limits_and_what_their_pods_do(rest: Rest) -> None:
    pools = PoolWorld(rest.world, await take_epoch(rest.world.database, "test"))
    rest.world.cluster.tasks[SHOP.namespace, "order"] = a_pooled_task()
    rest.world.cluster.tasks[SHOP.namespace, "lost"] = replace(a_pooled_task("nowhere"))
    await pools.put(slots=2, maxReplicas=4)
    await pools.put("spare", replicas=0)
    for _ in range(3):
        await rest.trigger({})
    await rest.trigger({}, task="lost")
    await pools.scale()
    (first, _) = await pools.pods()
    await pools.claim(first, "first", 2)

    answer = (await rest.get("/pools")).json

    fast, lost, spare = answer["items"]
    limits = (fast["minReplicas"], fast["maxReplicas"], fast["wanted"], fast["slots"], fast["missing"])
    assert (fast["name"], limits) == ("fast", (0, 4, None, 2, False))
    counts = [fast[name] for name in ("replicas", "ready", "busy", "idle", "running", "queued")]
    assert counts == [2, 1, 1, 0, 2, 1]
    assert (lost["name"], lost["missing"], lost["maxReplicas"], lost["queued"]) == ("nowhere", True, None, 1)
    assert (spare["name"], spare["wanted"], spare["replicas"]) == ("spare", 0, 0)
    page = (await rest.get("/pools?limit=2")).json
    assert (len(page["items"]), page["nextCursor"]) == (2, "nowhere")
