-- name: backlog
-- What each pod key has to do, what is already on its way to do it, and which pods are kept ready. Keys of pools are not
-- here: their pods take one run after the other. `ahead`: standby pods that have taken nothing. `kept`: the Tasks of the
-- key have moved on to another one, whose standby pods do not wait yet.
WITH due AS (
    SELECT pod_key, queue_id, count(*) FILTER (WHERE due) AS ready, min(rank) FILTER (WHERE due) AS oldest,
           min(available_at) FILTER (WHERE available_at > ledger_now()) AS next_at,
           (SELECT task FROM run WHERE run.id = min(queue_entry.run_id::text)::uuid) AS task
      FROM queue_entry, LATERAL (SELECT available_at <= ledger_now() AND (expires_at IS NULL OR expires_at > ledger_now()) AS due) d
     GROUP BY pod_key, queue_id),
head AS (
    SELECT v.pod_key, sum(h.standby)::integer AS standby, min(h.task) AS task
      FROM task_head h JOIN task_version v ON v.id = h.task_version_id WHERE h.standby > 0 GROUP BY v.pod_key),
ready_made AS (
    SELECT pod_key, count(*) AS ahead, count(*) FILTER (WHERE claim_id IS NOT NULL) AS waiting FROM pod
     WHERE ended_at IS NULL AND state IN ('Planned', 'Created') AND ahead AND NOT reuse AND NOT draining GROUP BY pod_key),
wanted AS (
    SELECT pod_key, queue_id, ready, oldest, next_at, task FROM due
     UNION ALL
    SELECT pod_key, NULL, 0, NULL, NULL, head.task FROM head FULL JOIN ready_made USING (pod_key)
     WHERE NOT EXISTS (SELECT FROM due WHERE due.pod_key = coalesce(head.pod_key, ready_made.pod_key)))
SELECT k.key, k.project_id, p.namespace, p.uid AS project_uid, k.parts, k.failures, k.backoff_until, k.reason,
       q.queue_id, q.ready, q.oldest, q.next_at, coalesce(q.task, '') AS task, coalesce(s.starting, 0) AS starting,
       coalesce(h.standby, 0) AS standby, coalesce(r.ahead, 0) AS ahead, coalesce(r.waiting, 0) AS waiting,
       r.ahead > coalesce(h.standby, 0) AND EXISTS (
           SELECT FROM task_version old JOIN task_head th ON th.project_id = old.project_id AND th.task = old.task
             JOIN task_version new ON new.id = th.task_version_id
            WHERE old.pod_key = k.key AND new.pod_key <> k.key
              AND th.standby > coalesce((SELECT waiting FROM ready_made WHERE ready_made.pod_key = new.pod_key), 0)) AS kept,
       ledger_now() AS now
  FROM wanted q JOIN pod_key k ON k.key = q.pod_key JOIN project p ON p.id = k.project_id
  LEFT JOIN head h ON h.pod_key = k.key LEFT JOIN ready_made r ON r.pod_key = k.key
  LEFT JOIN LATERAL (SELECT count(*) AS starting FROM pod
                      WHERE pod.pod_key = k.key AND pod.ended_at IS NULL AND pod.state IN ('Planned', 'Created')
                        AND NOT pod.ahead AND NOT pod.reuse AND NOT pod.draining) s ON true
 WHERE k.pool IS NULL
 ORDER BY q.oldest NULLS LAST, k.key;

-- name: starting_pods
-- A standby pod that has asked for work once is up, and not on its way any more.
SELECT count(*) AS n FROM pod WHERE ended_at IS NULL AND state IN ('Planned', 'Created') AND NOT (ahead AND claim_id IS NOT NULL);

-- name: plan_pod
-- Written before the POST: its name is the row's, so a second create answers 409 and not a twin. A repeat after a commit
-- whose acknowledgement was lost finds its rows.
INSERT INTO pod (id, project_id, pod_key, name, namespace, state, ahead)
VALUES (%(id)s, %(project_id)s, %(pod_key)s, %(name)s, %(namespace)s, 'Planned', %(ahead)s)
    ON CONFLICT (id) DO NOTHING;

-- name: planned_pods
-- Rows whose POST may not have happened: the operator was stopped between the two.
SELECT pod.id, pod.name, pod.namespace, pod.pod_key, pod.ahead, k.parts, pod.created_at FROM pod JOIN pod_key k ON k.key = pod.pod_key
 WHERE pod.state = 'Planned' AND pod.ended_at IS NULL AND pod.created_at < ledger_now() - %(age)s::interval ORDER BY pod.id LIMIT 100;

-- name: pod_created
UPDATE pod SET uid = %(uid)s, state = CASE WHEN state = 'Planned' THEN 'Created' ELSE state END
 WHERE id = %(id)s AND (uid IS NULL OR uid = %(uid)s) RETURNING id;

-- name: pod_by_uid
SELECT id, project_id, pod_key, name, namespace, uid, state, claim_id, ended_at, reason, ahead, draining, protection FROM pod WHERE uid = %(uid)s;

-- name: pod_by_name
SELECT pod.id, pod.project_id, pod.pod_key, pod.name, pod.namespace, pod.uid, pod.state, pod.claim_id, pod.ended_at, pod.reason,
       pod.ahead, pod.draining, pod.protection
  FROM pod JOIN project p ON p.id = pod.project_id WHERE p.uid = %(project_uid)s AND pod.name = %(name)s;

-- name: pod_ended
UPDATE pod SET state = 'Ended', ended_at = coalesce(ended_at, ledger_now()), reason = %(reason)s, message = %(message)s,
       node = coalesce(%(node)s, node), last_state = coalesce(%(last_state)s, last_state),
       delete_at = ledger_now() + %(keep)s::interval
 WHERE id = %(id)s AND ended_at IS NULL RETURNING claim_id, pod_key;

-- name: pod_gone
-- A pod that we deleted on its way would count as one on its way for ever if nobody saw it go.
UPDATE pod SET deleted_at = ledger_now(), state = 'Ended' WHERE id = %(id)s AND deleted_at IS NULL;

-- name: pod_node
UPDATE pod SET node = %(node)s WHERE id = %(id)s AND node IS DISTINCT FROM %(node)s;

-- name: pods_to_delete
SELECT id, name, namespace, uid FROM pod WHERE deleted_at IS NULL AND delete_at <= ledger_now() ORDER BY delete_at LIMIT 100;

-- name: delete_pod_soon
UPDATE pod SET delete_at = ledger_now() WHERE id = %(id)s;

-- name: drain_idle_starting
-- Pods on their way although nothing waits for them any more, such as those whose image cannot be pulled. From here on
-- they take nothing, so that they can be deleted.
UPDATE pod SET draining = true, delete_at = ledger_now()
 WHERE id IN (SELECT id FROM pod
               WHERE pod.ended_at IS NULL AND pod.state = 'Created' AND NOT pod.ahead AND NOT pod.draining
                 AND pod.created_at < ledger_now() - %(age)s::interval
                 AND NOT EXISTS (SELECT 1 FROM queue_entry q WHERE q.pod_key = pod.pod_key) LIMIT 100 FOR UPDATE SKIP LOCKED);

-- name: drain_standby
-- Under the pod's row lock, which a claim holds too: the claim took something before, and the pod is not `Created` any more, or it
-- comes after and is told to leave. One that is being claimed right now is skipped; the next look counts again. Those that
-- wait go last.
UPDATE pod SET draining = true, delete_at = ledger_now()
 WHERE id IN (SELECT id FROM pod
               WHERE pod_key = %(pod_key)s AND ended_at IS NULL AND state = 'Created' AND ahead AND NOT reuse AND NOT draining
               ORDER BY claim_id IS NOT NULL, id DESC LIMIT %(n)s FOR UPDATE SKIP LOCKED)
RETURNING id, name, namespace, uid;

-- name: pods_believed_alive
SELECT id, name, namespace, uid, state, created_at FROM pod
 WHERE deleted_at IS NULL AND uid IS NOT NULL AND created_at < ledger_now() - %(age)s::interval ORDER BY id;

-- name: pod_key_failed
UPDATE pod_key SET failures = failures + 1, backoff_until = ledger_now() + %(backoff)s::interval, reason = %(reason)s, message = %(message)s
 WHERE key = %(key)s RETURNING failures;

-- name: pod_key_problem
UPDATE pod_key SET reason = %(reason)s, message = %(message)s
 WHERE key = %(key)s AND (reason, message) IS DISTINCT FROM (%(reason)s, %(message)s) RETURNING key;

-- name: queued_runs_of_key
SELECT run_id FROM queue_entry WHERE pod_key = %(key)s AND available_at <= ledger_now() LIMIT 1000;

-- name: failures_of_key
SELECT failures FROM pod_key WHERE key = %(key)s;

-- name: starting_for_run
SELECT count(*) AS n FROM queue_entry q JOIN pod ON pod.pod_key = q.pod_key
 WHERE q.run_id = %(run_id)s AND pod.ended_at IS NULL AND pod.state IN ('Planned', 'Created');

-- name: keys_recovered
-- A standby pod that has waited for a while is proof that pods of its key work, as a claimed run is.
UPDATE pod_key SET failures = 0, backoff_until = NULL, reason = NULL, message = NULL
 WHERE (failures > 0 OR reason IS NOT NULL)
   AND EXISTS (SELECT FROM pod WHERE pod.pod_key = key AND pod.ended_at IS NULL AND pod.state = 'Created' AND pod.ahead
                  AND pod.idle_since < ledger_now() - %(proof)s::interval)
RETURNING key;
