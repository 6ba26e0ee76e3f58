"""The leader's look at the ledger for the gauges: the only place that counts what is there."""

from windlass_operator.ledger import gauges
from windlass_operator.ledger.database import Database
from windlass_operator.metrics import Look, bounded, ledger_look
from windlass_operator.services.recorder import reason_label


class GaugeService:
    """Fills the gauges. Only the leader runs it: two processes that count one ledger would count it twice."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def look(self) -> None:
        """Count what the ledger holds and show it to the next scrapes."""
        counts = await gauges.count(self._database)
        held: dict[tuple[str, ...], float] = {}
        for reason, n in counts.held.items():
            label = (reason_label(reason),)
            held[label] = held.get(label, 0) + n
        ledger_look.show(
            Look(
                {
                    "windlass_leader": {(): 1},
                    "windlass_runs": bounded(counts.runs),
                    "windlass_runs_held": held,
                    "windlass_queue_oldest_seconds": {(): counts.oldest_queued},
                    "windlass_pods": {(state,): n for state, n in counts.pods.items()},
                    "windlass_standby_pods": {(doing,): n for doing, n in counts.standby.items()},
                    "windlass_protected_pods": {(): counts.protected},
                    "windlass_pool_runs": counts.pool_runs,
                    "windlass_pool_pods": counts.pool_pods,
                    "windlass_projection_backlog": {(): counts.projection_backlog},
                    "windlass_projection_lag_seconds": {(): counts.projection_lag},
                    "windlass_heartbeat_service_age_seconds": {(): counts.heartbeat_age},
                }
            )
        )

    @staticmethod
    def forget() -> None:
        """Show nothing any more: this process does not lead."""
        ledger_look.show(None)
