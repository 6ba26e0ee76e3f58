-- name: queued_runs
-- From the queue, and not from the runs: finished ones would be read with them.
SELECT p.namespace, run.task, run.state, count(*) AS n FROM queue_entry q JOIN run ON run.id = q.run_id JOIN project p ON p.id = run.project_id
 GROUP BY p.namespace, run.task, run.state;

-- name: runs_without_task
-- They wait for their Task and are in no queue.
SELECT p.namespace, run.task, run.state, count(*) AS n FROM run JOIN project p ON p.id = run.project_id
 WHERE run.held_since IS NOT NULL AND run.task_version_id IS NULL GROUP BY p.namespace, run.task, run.state;

-- name: open_runs
SELECT p.namespace, run.task, run.state, count(*) AS n FROM attempt a JOIN run ON run.id = a.run_id
  JOIN project p ON p.id = run.project_id WHERE a.closed_at IS NULL GROUP BY p.namespace, run.task, run.state;

-- name: idle_runs
-- They are in no queue and have no attempt. By the index of unfinished runs: finished ones are not looked at.
SELECT p.namespace, run.task, run.state, count(*) AS n FROM run JOIN project p ON p.id = run.project_id
 WHERE run.finished_at IS NULL AND run.state IN ('Waiting', 'Suspended') GROUP BY p.namespace, run.task, run.state;

-- name: held_by_reason
SELECT coalesce(reason, '') AS reason, count(*) AS n FROM run WHERE held_since IS NOT NULL GROUP BY 1;

-- name: pods_by_state
SELECT state, count(*) AS n FROM pod WHERE deleted_at IS NULL GROUP BY state;

-- name: standby_pods
SELECT count(*) FILTER (WHERE claim_id IS NULL) AS starting, count(*) FILTER (WHERE claim_id IS NOT NULL) AS waiting FROM pod
 WHERE ended_at IS NULL AND state IN ('Planned', 'Created') AND ahead AND NOT reuse AND NOT draining;

-- name: pools
-- Of the pools that are there, in the order of their names: with thousands of them, the metrics show the first thousand.
SELECT p.namespace, w.name,
       (SELECT count(*) FROM pod_key k JOIN queue_entry e ON e.pod_key = k.key AND e.available_at <= ledger_now()
         WHERE k.project_id = w.project_id AND k.pool = w.name) AS queued,
       l.running, l.busy, l.idle, l.starting
  FROM worker_pool w JOIN project p ON p.id = w.project_id CROSS JOIN LATERAL (
    SELECT coalesce(sum(held), 0)::bigint AS running, count(*) FILTER (WHERE held > 0) AS busy,
           count(*) FILTER (WHERE held = 0 AND claim_id IS NOT NULL) AS idle, count(*) FILTER (WHERE claim_id IS NULL) AS starting
      FROM (SELECT pod.claim_id, (SELECT count(*) FROM attempt a WHERE a.pod_id = pod.id AND a.closed_at IS NULL) AS held
              FROM pod_key k JOIN pod ON pod.pod_key = k.key AND pod.reuse AND pod.ended_at IS NULL AND pod.deleted_at IS NULL
             WHERE k.project_id = w.project_id AND k.pool = w.name) h) l
 WHERE w.resource_uid IS NOT NULL ORDER BY p.namespace, w.name LIMIT 1000;

-- name: ages
-- One row of ages in seconds, 0 where nothing waits.
SELECT coalesce((SELECT extract(epoch FROM ledger_now() - min(available_at)) FROM queue_entry WHERE available_at <= ledger_now()), 0)::float8
           AS oldest_queued,
       (SELECT count(*) FROM projection_entry) AS backlog,
       coalesce((SELECT extract(epoch FROM ledger_now() - min(since)) FROM projection_entry), 0)::float8 AS lag,
       (SELECT extract(epoch FROM ledger_now() - served_at) FROM heartbeat_service)::float8 AS heartbeat_age;
