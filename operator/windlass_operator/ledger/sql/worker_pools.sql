-- name: put_pool
-- An event that is older than what is known changes nothing.
INSERT INTO worker_pool (project_id, name, resource_uid, generation, min_replicas, max_replicas, replicas, standby, slots,
                         scale_down_after, template, template_hash)
VALUES (%(project_id)s, %(name)s, %(uid)s, %(generation)s, %(min_replicas)s, %(max_replicas)s, %(replicas)s, %(standby)s, %(slots)s,
        %(scale_down_after)s, %(template)s, %(template_hash)s)
ON CONFLICT (project_id, name) DO UPDATE SET resource_uid = excluded.resource_uid, generation = excluded.generation,
       min_replicas = excluded.min_replicas, max_replicas = excluded.max_replicas, replicas = excluded.replicas,
       standby = excluded.standby, slots = excluded.slots, scale_down_after = excluded.scale_down_after,
       template = excluded.template, template_hash = excluded.template_hash
 WHERE worker_pool.resource_uid IS DISTINCT FROM excluded.resource_uid OR worker_pool.generation < excluded.generation
RETURNING id;

-- name: drop_pool
-- The rest of the row stays: its pods are still there, and drain.
UPDATE worker_pool SET resource_uid = NULL, generation = 0 WHERE resource_uid = %(uid)s RETURNING id;

-- name: pools
-- Those that are there, and those that still have pods.
SELECT w.*, p.namespace, p.uid AS project_uid, ledger_now() AS now FROM worker_pool w JOIN project p ON p.id = w.project_id
 WHERE w.resource_uid IS NOT NULL
    OR EXISTS (SELECT 1 FROM pod JOIN pod_key k ON k.key = pod.pod_key
                WHERE pod.reuse AND pod.ended_at IS NULL AND pod.deleted_at IS NULL AND k.project_id = w.project_id AND k.pool = w.name)
 ORDER BY w.id;

-- name: pool_backlog
-- What pod keys have to do, by queue. Those of other pods too: they share the places of queues. Not those whose pool is
-- missing: nothing of them starts.
SELECT e.pod_key AS key, e.queue_id, k.pool IS NOT NULL AS pooled, k.backoff_until,
       count(*) FILTER (WHERE due) AS ready, min(rank) FILTER (WHERE due) AS oldest,
       min(available_at) FILTER (WHERE available_at > ledger_now()) AS next_at, ledger_now() AS now
  FROM queue_entry e JOIN pod_key k ON k.key = e.pod_key LEFT JOIN worker_pool w ON w.project_id = k.project_id AND w.name = k.pool,
       LATERAL (SELECT e.available_at <= ledger_now() AND (e.expires_at IS NULL OR e.expires_at > ledger_now()) AS due) d
 WHERE k.pool IS NULL OR w.resource_uid IS NOT NULL GROUP BY e.pod_key, e.queue_id, k.pool, k.backoff_until;

-- name: note_idle
-- Since when pods hold nothing, seen once a second. A claim that takes something sets it back by itself.
WITH seen AS (
    SELECT pod.id, EXISTS (SELECT 1 FROM attempt a WHERE a.pod_id = pod.id AND a.closed_at IS NULL) AS busy FROM pod
     WHERE reuse AND ended_at IS NULL AND deleted_at IS NULL AND claim_id IS NOT NULL)
UPDATE pod SET idle_since = CASE WHEN seen.busy THEN NULL ELSE ledger_now() END FROM seen
 WHERE pod.id = seen.id AND seen.busy = (pod.idle_since IS NOT NULL);

-- name: pool_pods
-- One that has taken its last run drains by itself: its runner asks for no more.
SELECT pod.id, pod.pod_key, pod.template_hash, pod.created_at, pod.claim_id IS NOT NULL AS ready, pod.uid IS NOT NULL AS posted,
       pod.draining OR pod.state = 'Ended'
       OR coalesce((SELECT count(*) FROM attempt a WHERE a.pod_id = pod.id AND m.runs IS NOT NULL) >= m.runs, false) AS draining, pod.idle_since, k.pool, k.project_id,
       (SELECT count(*) FROM attempt a WHERE a.pod_id = pod.id AND a.closed_at IS NULL) AS open
  FROM pod JOIN pod_key k ON k.key = pod.pod_key LEFT JOIN worker_pool w ON w.project_id = k.project_id AND w.name = k.pool
 CROSS JOIN LATERAL (SELECT (w.template::json ->> 'maxRuns')::integer AS runs) m
 WHERE pod.reuse AND pod.ended_at IS NULL AND pod.deleted_at IS NULL ORDER BY pod.id;

-- name: pool_keys
-- Keys that pods may be started of: of the newest versions of Tasks, of pods that are there, and of runs that wait.
SELECT k.key, k.project_id, k.pool, k.parts, k.failures, k.backoff_until, k.reason, k.message, coalesce(h.head, false) AS head
  FROM pod_key k
  LEFT JOIN (SELECT v.pod_key, true AS head FROM task_head t JOIN task_version v ON v.id = t.task_version_id GROUP BY v.pod_key) h ON h.pod_key = k.key
 WHERE k.pool IS NOT NULL
   AND (h.head OR k.key = ANY(%(waiting)s)
        OR EXISTS (SELECT 1 FROM pod WHERE pod.pod_key = k.key AND pod.ended_at IS NULL AND pod.deleted_at IS NULL))
 ORDER BY k.key;

-- name: starting_now
-- Pods on their way. One that waits for a run is up.
SELECT count(*) AS n FROM pod WHERE ended_at IS NULL AND deleted_at IS NULL AND state IN ('Planned', 'Created') AND claim_id IS NULL;

-- name: plan_pool_pod
-- Written before the POST, as every pod. Reusable, so `ahead`: no run waits for this very pod.
INSERT INTO pod (id, project_id, pod_key, name, namespace, state, ahead, reuse, slots, template_hash)
VALUES (%(id)s, %(project_id)s, %(pod_key)s, %(name)s, %(namespace)s, 'Planned', true, true, %(slots)s, %(template_hash)s)
    ON CONFLICT (id) DO NOTHING;

-- name: lock_pods
-- In one order, and never a pod whose claim is being answered: that one is busy in a moment.
SELECT id FROM pod WHERE id = ANY(%(ids)s) AND ended_at IS NULL AND NOT draining ORDER BY id FOR NO KEY UPDATE SKIP LOCKED;

-- name: busy_pods
-- A statement of its own, after the lock: it must see what a claim has committed that held the row before.
SELECT DISTINCT pod_id AS id FROM attempt WHERE pod_id = ANY(%(ids)s) AND closed_at IS NULL;

-- name: drain_pods
UPDATE pod SET draining = true WHERE id = ANY(%(ids)s) RETURNING id;

-- name: drained_pods
-- They hold nothing and get nothing: whether their runners have left by themselves does not matter.
SELECT pod.id, pod.name, pod.namespace, pod.uid FROM pod
 WHERE pod.reuse AND pod.draining AND pod.deleted_at IS NULL AND pod.ended_at IS NULL AND pod.uid IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.pod_id = pod.id AND a.closed_at IS NULL) LIMIT 100;

-- name: pool_of_key
SELECT w.name, w.slots, w.template, w.template_hash FROM pod_key k JOIN worker_pool w ON w.project_id = k.project_id AND w.name = k.pool
 WHERE k.key = %(key)s;

-- name: pool_runs
-- Runs in the pods of each pool, and runs that wait for a place there.
SELECT k.project_id, k.pool, sum(n.queued)::bigint AS queued
  FROM pod_key k CROSS JOIN LATERAL (
    SELECT count(*) AS queued FROM queue_entry e WHERE e.pod_key = k.key AND e.available_at <= ledger_now()) n
 WHERE k.pool IS NOT NULL GROUP BY k.project_id, k.pool;

-- name: pools_with_resource
SELECT w.resource_uid AS uid, w.name, p.namespace FROM worker_pool w JOIN project p ON p.id = w.project_id WHERE w.resource_uid IS NOT NULL;

-- name: held_by_missing_pools
-- Runs with a resource whose pool is not there, the next ones first: their status says so.
SELECT e.run_id FROM pod_key k JOIN queue_entry e ON e.pod_key = k.key JOIN run ON run.id = e.run_id
  LEFT JOIN worker_pool w ON w.project_id = k.project_id AND w.name = k.pool
 WHERE k.pool IS NOT NULL AND w.resource_uid IS NULL
   AND (run.resource_uid IS NOT NULL OR EXISTS (SELECT 1 FROM run_handle h WHERE h.run_id = run.id))
 ORDER BY e.rank LIMIT %(limit)s;

-- name: pools_of_project
-- Every pool, and every one that runs wait for although it is not there.
SELECT n.name, w.name IS NULL AS missing, w.min_replicas, w.max_replicas, w.replicas AS wanted, w.standby, w.slots,
       p.replicas, p.ready, p.busy, p.idle, p.running, q.queued
  FROM (SELECT name FROM worker_pool WHERE project_id = %(project_id)s AND resource_uid IS NOT NULL
         UNION SELECT k.pool FROM pod_key k WHERE k.project_id = %(project_id)s AND k.pool IS NOT NULL
                  AND EXISTS (SELECT 1 FROM queue_entry e WHERE e.pod_key = k.key)) n
  LEFT JOIN worker_pool w ON w.project_id = %(project_id)s AND w.name = n.name AND w.resource_uid IS NOT NULL
 CROSS JOIN LATERAL (
    SELECT count(*) AS replicas, count(*) FILTER (WHERE takes) AS ready, count(*) FILTER (WHERE held > 0) AS busy,
           count(*) FILTER (WHERE takes AND held = 0) AS idle, coalesce(sum(held), 0)::bigint AS running
      FROM pod_key k JOIN pod ON pod.pod_key = k.key AND pod.reuse AND pod.ended_at IS NULL AND pod.deleted_at IS NULL
     CROSS JOIN LATERAL (SELECT pod.claim_id IS NOT NULL AND NOT pod.draining AND pod.state <> 'Ended' AS takes,
                                (SELECT count(*) FROM attempt a WHERE a.pod_id = pod.id AND a.closed_at IS NULL) AS held) h
     WHERE k.project_id = %(project_id)s AND k.pool = n.name) p
 CROSS JOIN LATERAL (
    SELECT count(*) AS queued FROM pod_key k JOIN queue_entry e ON e.pod_key = k.key AND e.available_at <= ledger_now()
     WHERE k.project_id = %(project_id)s AND k.pool = n.name) q
 WHERE n.name > %(after)s ORDER BY n.name LIMIT %(limit)s;
