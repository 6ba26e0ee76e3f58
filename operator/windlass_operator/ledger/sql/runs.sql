-- name: ensure_project
-- Written once: an upsert each time would lock the row, and let all submissions of a project wait for each other.
WITH found AS (SELECT id FROM project WHERE uid = %(uid)s AND namespace = %(namespace)s),
made AS (
    INSERT INTO project (uid, namespace) SELECT %(uid)s, %(namespace)s WHERE NOT EXISTS (SELECT 1 FROM found)
    ON CONFLICT (uid) DO UPDATE SET namespace = excluded.namespace RETURNING id)
SELECT id FROM found UNION ALL SELECT id FROM made;

-- name: ensure_pod_key
INSERT INTO pod_key (key, project_id, parts, pool) VALUES (%(key)s, %(project_id)s, %(parts)s, %(pool)s) ON CONFLICT (key) DO NOTHING;

-- name: find_version
SELECT id, version, pod_key, queue_id, spec FROM task_version
 WHERE project_id = %(project_id)s AND task = %(task)s AND spec_hash = %(spec_hash)s;

-- name: ensure_queue
INSERT INTO queue (project_id, name, named) VALUES (%(project_id)s, %(name)s, %(named)s)
ON CONFLICT (project_id, name) DO UPDATE SET named = queue.named OR excluded.named RETURNING id;

-- name: add_version
-- Numbered under the project's row lock (taken by the caller), so two imports never take the same number.
INSERT INTO task_version (project_id, task, version, spec_hash, spec, pod_key, queue_id, priority)
SELECT %(project_id)s, %(task)s, coalesce(max(version), 0) + 1, %(spec_hash)s, %(spec)s, %(pod_key)s, %(queue_id)s, %(priority)s
  FROM task_version WHERE project_id = %(project_id)s AND task = %(task)s
ON CONFLICT (project_id, task, spec_hash) DO NOTHING
RETURNING id, version, pod_key, queue_id, spec;

-- name: version_by_number
SELECT id, version, pod_key, queue_id, spec FROM task_version
 WHERE project_id = %(project_id)s AND task = %(task)s AND version = %(version)s;

-- name: lock_project
-- NO KEY: two who have written rows of the project, and so hold its key, must not wait for each other here.
SELECT 1 FROM project WHERE id = %(project_id)s FOR NO KEY UPDATE;

-- name: enqueue
INSERT INTO queue_entry (run_id, pod_key, queue_id, rank, available_at, expires_at)
SELECT run.id, v.pod_key, v.queue_id, run.created_at - make_interval(secs => v.priority), run.available_at,
       CASE WHEN run.attempts = 0 THEN run.expires_at END
  FROM run JOIN task_version v ON v.id = run.task_version_id WHERE run.id = ANY(%(run_ids)s)
RETURNING pod_key, (available_at <= ledger_now())::integer AS due;

-- name: dequeue
-- Answers the runs whose entries were there for us to take. Under the runs' row locks, which every entry is inserted under. A
-- claim locks the other way round: the entry that it has taken is left to it, for it finds the run no longer Queued; to wait for
-- it would be to wait in a circle.
DELETE FROM queue_entry WHERE run_id IN (SELECT run_id FROM queue_entry WHERE run_id = ANY(%(run_ids)s) FOR UPDATE SKIP LOCKED)
RETURNING run_id;

-- name: lock_runs
-- In the order of their ids, as everywhere that more than one is locked. By an array, as in `claim_runs`.
SELECT run.id, run.project_id, run.task, run.task_version_id, run.state, run.reason, run.attempts, run.user_failures, run.infra_failures,
       run.running_ms, run.revision, run.resource_uid, v.spec, v.pod_key,
       p.namespace, run.traceparent, run.created_at, run.started_at, run.timeout_added_ms,
       coalesce(run.deadline_at <= ledger_now(), false) AS overdue, ledger_now() AS now,
       run.ends_as, run.ends_reason, run.ends_message, run.ends_class, run.compensation_failures, run.undoing
  FROM run JOIN project p ON p.id = run.project_id LEFT JOIN task_version v ON v.id = run.task_version_id
 WHERE run.id = ANY (ARRAY(SELECT id FROM json_to_recordset(%(items)s::json) AS w (id uuid))) ORDER BY run.id FOR UPDATE OF run;

-- name: change_runs
-- Compare-and-set on the revisions; the runs are locked. Fewer than were asked for: somebody else changed one since it was read.
-- `drops`: nobody waits any more. The waiting steps never came to an end, so history has nothing of them. By arrays, as in
-- `claim_runs`.
WITH change AS (
    SELECT * FROM json_to_recordset(%(items)s::json) AS c (id uuid, revision bigint, state text, reason text, message text,
        ends_as text, ends_reason text, ends_message text, ends_class text, compensation_failures integer, user_failures integer,
        infra_failures integer, running_ms bigint, error text, result text, result_sha256 text, result_size bigint, delay float8,
        final boolean, drops boolean, event text, attempt integer, event_reason text, event_message text)),
changed AS (
    UPDATE run SET state = c.state, reason = c.reason, message = c.message, revision = run.revision + 1,
           user_failures = run.user_failures + c.user_failures, infra_failures = run.infra_failures + c.infra_failures,
           running_ms = run.running_ms + c.running_ms, compensation_failures = run.compensation_failures + c.compensation_failures,
           ends_as = coalesce(c.ends_as, run.ends_as), ends_reason = coalesce(c.ends_reason, run.ends_reason),
           ends_message = coalesce(c.ends_message, run.ends_message), ends_class = coalesce(c.ends_class, run.ends_class), undoing = false,
           error = coalesce(c.error, run.error),
           result = c.result, result_sha256 = c.result_sha256, result_size = c.result_size,
           available_at = CASE WHEN c.delay IS NULL THEN run.available_at ELSE ledger_now() + make_interval(secs => c.delay) END,
           held_since = NULL,
           finished_at = CASE WHEN c.final THEN ledger_now() END
      FROM change c WHERE run.id = c.id AND run.id = ANY (ARRAY(SELECT id FROM change)) AND run.revision = c.revision
    RETURNING run.id, run.revision, run.resource_uid),
told AS (
    INSERT INTO event (run_id, n, type, attempt, reason, message)
    SELECT changed.id, changed.revision, c.event, c.attempt, c.event_reason, c.event_message FROM changed JOIN change c USING (id)),
shown AS (
    INSERT INTO projection_entry (run_id, revision)
    SELECT id, revision FROM changed
     WHERE resource_uid IS NOT NULL OR EXISTS (SELECT 1 FROM run_handle h WHERE h.run_id = changed.id) ORDER BY id
    ON CONFLICT (run_id) DO UPDATE SET revision = excluded.revision),
gone AS (
    DELETE FROM wait WHERE run_id = ANY (ARRAY(SELECT id FROM change WHERE drops)) RETURNING run_id, key),
forgotten AS (
    DELETE FROM step USING gone
     WHERE step.run_id = gone.run_id AND step.run_id = ANY (ARRAY(SELECT run_id FROM gone)) AND step.key = gone.key AND step.state = 'waiting')
SELECT count(*) AS n FROM changed;

-- name: bind_version
-- The Task has appeared: the run joins its queue.
UPDATE run SET task_version_id = %(task_version_id)s, reason = NULL, message = NULL, held_since = NULL,
       available_at = ledger_now(), deadline_at = created_at + %(total_timeout)s::interval, revision = revision + 1
 WHERE id = %(run_id)s AND task_version_id IS NULL AND state = 'Queued' RETURNING revision;

-- name: use_version
-- Of a locked run that is in no queue: the entry it gets next has the pod key of this version.
UPDATE run SET task_version_id = %(task_version_id)s, deadline_at = created_at + %(total_timeout)s::interval
 WHERE id = %(run_id)s;

-- name: waiting_for_task
SELECT run.id, run.wanted_version, run.payload FROM run
 WHERE project_id = %(project_id)s AND task = %(task)s AND task_version_id IS NULL AND held_since IS NOT NULL
 ORDER BY id LIMIT 500;

-- name: missing_tasks
SELECT DISTINCT p.uid, p.namespace, run.task FROM run JOIN project p ON p.id = run.project_id
 WHERE held_since IS NOT NULL AND task_version_id IS NULL LIMIT 200;

-- name: set_reason
-- Why a run that waits in the queue does not start. Written only when it differs, so a loop that looks every second writes
-- nothing. Where nothing holds a run that is being compensated, it shows why it ends.
UPDATE run SET revision = revision + 1,
       reason = CASE WHEN %(reason)s::text IS NULL THEN ends_reason ELSE %(reason)s END,
       message = CASE WHEN %(reason)s::text IS NULL THEN ends_message ELSE %(message)s END,
       held_since = CASE WHEN %(reason)s::text IS NULL THEN NULL ELSE coalesce(held_since, ledger_now()) END
 WHERE id = ANY(%(run_ids)s) AND (state = 'Queued' OR state = 'Compensating' AND NOT undoing)
   AND (reason, message) IS DISTINCT FROM (CASE WHEN %(reason)s::text IS NULL THEN ends_reason ELSE %(reason)s END,
                                           CASE WHEN %(reason)s::text IS NULL THEN ends_message ELSE %(message)s END)
RETURNING id, revision, resource_uid;

-- name: held_runs
-- `settled`: its pods have no problem any more. One that claimed as soon as it started was not seen starting by anybody.
SELECT run.id, run.task, run.reason, run.message, run.held_since, v.spec, ledger_now() - run.held_since AS held_for,
       v.id IS NOT NULL AND k.reason IS NULL AS settled
  FROM run LEFT JOIN task_version v ON v.id = run.task_version_id LEFT JOIN pod_key k ON k.key = v.pod_key
 WHERE run.held_since IS NOT NULL AND run.state IN ('Queued', 'Compensating') ORDER BY run.held_since LIMIT 500;

-- name: add_event
INSERT INTO event (run_id, n, type, attempt, reason, message)
VALUES (%(run_id)s, %(n)s, %(type)s, %(attempt)s, %(reason)s, %(message)s);

-- name: want_projection
INSERT INTO projection_entry (run_id, revision)
SELECT id, revision FROM run WHERE id = ANY(%(run_ids)s)
   AND (resource_uid IS NOT NULL OR EXISTS (SELECT 1 FROM run_handle h WHERE h.run_id = run.id))
ON CONFLICT (run_id) DO UPDATE SET revision = excluded.revision;

-- name: note_progress
-- Steps do not change the run's row; this makes their counts visible, at most once a second for a run.
UPDATE run SET revision = revision + 1
 WHERE id = %(run_id)s AND state IN ('Running', 'Cancelling', 'Compensating')
   AND (resource_uid IS NOT NULL OR EXISTS (SELECT 1 FROM run_handle h WHERE h.run_id = run.id)) RETURNING id;

-- name: runs_by_resource
SELECT resource_uid, id FROM run WHERE resource_uid = ANY(%(resource_uids)s)
UNION ALL SELECT resource_uid, run_id FROM run_handle WHERE resource_uid = ANY(%(resource_uids)s);

-- name: see_generation
WITH handle AS (
    UPDATE run_handle SET generation = %(generation)s, changed = spec_hash <> %(resource_hash)s
     WHERE resource_uid = %(resource_uid)s AND generation < %(generation)s RETURNING run_id),
own AS (
    SELECT id FROM run WHERE resource_uid = %(resource_uid)s AND resource_generation < %(generation)s)
UPDATE run SET revision = revision + 1,
       resource_generation = CASE WHEN resource_uid = %(resource_uid)s THEN %(generation)s ELSE resource_generation END,
       resource_changed = CASE WHEN resource_uid = %(resource_uid)s THEN resource_hash IS DISTINCT FROM %(resource_hash)s
                               ELSE resource_changed END
 WHERE id = (SELECT run_id FROM handle UNION ALL SELECT id FROM own) RETURNING id;

-- name: run_known
SELECT 1 FROM run WHERE id = %(run_id)s;

-- name: finished_twin
-- A finished run of a resource with this name and spec that our own TTL removed: only that takes the UID away. A resource
-- that a person deleted and created again is meant to run again.
SELECT id FROM run WHERE project_id = %(project_id)s AND resource_name = %(resource_name)s
   AND resource_hash = %(resource_hash)s AND resource_uid IS NULL AND finished_at IS NOT NULL ORDER BY id DESC LIMIT 1;

-- name: bind_resource
UPDATE run SET resource_uid = %(resource_uid)s, resource_generation = 1, resource_changed = false,
       resource_bound_at = ledger_now(), revision = revision + 1
 WHERE id = %(run_id)s RETURNING id;

-- name: get_run
SELECT run.*, p.uid AS project_uid, p.namespace, v.version, v.spec, a.pod_name,
       coalesce(s.succeeded, 0) AS steps_succeeded, coalesce(s.failed, 0) AS steps_failed,
       coalesce(s.running, 0) AS steps_running,
       coalesce(s.waiting, 0) AS steps_waiting, s.current_step, ledger_now() AS now,
       EXISTS (SELECT FROM attempt o JOIN protection t ON t.attempt_id = o.id
                WHERE o.run_id = run.id AND o.closed_at IS NULL AND t.ended_at IS NULL) AS protected,
       q.name AS queue, q.concurrency AS queue_concurrency, q.paused AS queue_paused,
       q.named AND q.resource_uid IS NULL AS queue_missing, q.running AS queue_running,
       k.pool, k.pool IS NOT NULL AND w.resource_uid IS NULL AS pool_missing
  FROM run JOIN project p ON p.id = run.project_id
  LEFT JOIN task_version v ON v.id = run.task_version_id
  LEFT JOIN pod_key k ON k.key = v.pod_key
  LEFT JOIN worker_pool w ON w.project_id = run.project_id AND w.name = k.pool
  LEFT JOIN LATERAL (SELECT pod.name AS pod_name FROM attempt JOIN pod ON pod.id = attempt.pod_id
                      WHERE attempt.run_id = run.id ORDER BY attempt.number DESC LIMIT 1) a ON true
  LEFT JOIN LATERAL (SELECT count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
                            count(*) FILTER (WHERE state = 'failed') AS failed,
                            count(*) FILTER (WHERE state = 'running') AS running,
                            count(*) FILTER (WHERE state = 'waiting') AS waiting,
                            max(name) FILTER (WHERE state = 'running') AS current_step
                       FROM step WHERE step.run_id = run.id) s ON true
  LEFT JOIN LATERAL (SELECT queue.*,
                            CASE WHEN queue.concurrency IS NULL THEN 0
                                 ELSE (SELECT count(*) FROM attempt o WHERE o.queue_id = queue.id AND o.closed_at IS NULL) END AS running
                       FROM queue_entry e JOIN queue ON queue.id = e.queue_id WHERE e.run_id = run.id) q ON true
 WHERE run.id = ANY(%(run_ids)s);

-- name: get_new
-- The same of runs that this transaction has inserted, which have neither attempts nor steps: what an answer to who asked for
-- them is made of.
SELECT run.id, run.task, run.state, run.reason, run.message, run.tags, run.created_at, run.available_at, run.held_since, run.idempotency_key,
       run.parent_id, run.root_id, run.payload_sha256, run.payload_size, run.traceparent, run.resource_name, p.namespace, v.version, v.spec,
       ledger_now() AS now, q.name AS queue, q.concurrency AS queue_concurrency, q.paused AS queue_paused,
       q.named AND q.resource_uid IS NULL AS queue_missing,
       CASE WHEN q.concurrency IS NULL THEN 0
            ELSE (SELECT count(*) FROM attempt o WHERE o.queue_id = q.id AND o.closed_at IS NULL) END AS queue_running,
       k.pool, k.pool IS NOT NULL AND w.resource_uid IS NULL AS pool_missing
  FROM run JOIN project p ON p.id = run.project_id JOIN task_version v ON v.id = run.task_version_id
  JOIN queue_entry e ON e.run_id = run.id JOIN queue q ON q.id = e.queue_id
  JOIN pod_key k ON k.key = v.pod_key LEFT JOIN worker_pool w ON w.project_id = run.project_id AND w.name = k.pool
 WHERE run.id = ANY(%(run_ids)s) AND run.state = 'Queued' AND run.attempts = 0;

-- name: which_exist
SELECT id FROM run WHERE id = ANY(%(run_ids)s);

-- name: newest_of_name
-- The newest resource of that name, whether the run was made for it or it is a handle on an earlier one.
SELECT id FROM (
    SELECT run.id, coalesce(run.resource_bound_at, run.created_at) AS since FROM run
     WHERE run.project_id = %(project_id)s AND run.resource_name = %(name)s
    UNION ALL
    SELECT run.id, h.created_at FROM run_handle h JOIN run ON run.id = h.run_id
     WHERE run.project_id = %(project_id)s AND h.name = %(name)s) named
 ORDER BY since DESC, id DESC LIMIT 1;

-- name: list_events
SELECT n, at, type, attempt, reason, message FROM event
 WHERE run_id = %(run_id)s AND n > %(after)s ORDER BY n LIMIT %(limit)s;

-- name: project_by_uid
SELECT id, uid, namespace, credential_hash FROM project WHERE uid = %(uid)s;

-- name: set_credential_hash
UPDATE project SET credential_hash = %(credential_hash)s WHERE id = %(project_id)s;

-- name: payload
SELECT payload, payload_sha256, payload_size FROM run WHERE id = %(run_id)s;
