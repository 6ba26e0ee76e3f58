-- name: insert_runs
-- Runs, their places in the queue and their first events in one statement and one parameter: a thousand runs cost one way
-- to the server. A run that is there already, by its id or its resource's UID, is left out of everything, and is the answer. In order of the
-- ids, so two that insert the same runs never wait for each other in a circle. One whose version is said by a hash is left out too
-- if there is no such version, or if its queue may be full. OFFSET 0: each hash is looked up, and not all versions of the namespace.
WITH item AS (
    SELECT * FROM json_to_recordset(%(items)s::json) AS i (id uuid, task text, task_version_id bigint, wanted_version integer,
        spec_hash text, reason text, message text, payload text, sha256 text, size bigint, tags text[], traceparent text,
        idempotency_key text, resource_uid text, resource_name text, resource_hash text,
        total_timeout float8, delay float8, start_at timestamptz, queue_ttl float8, parent_id uuid, root_id uuid, depth smallint, detached boolean)),
known AS (
    SELECT item.*, task_version_id AS version_id, %(project_id)s::bigint AS project_id FROM item WHERE spec_hash IS NULL
    UNION ALL
    SELECT item.*, v.id, p.id FROM project p CROSS JOIN item CROSS JOIN LATERAL (
        SELECT id, queue_id FROM task_version
         WHERE project_id = p.id AND task = item.task AND task_version.spec_hash = item.spec_hash OFFSET 0) v
      JOIN queue q ON q.id = v.queue_id AND q.max_length IS NULL
     WHERE p.uid = %(project_uid)s AND p.namespace = %(namespace)s),
made AS (
    INSERT INTO run (id, project_id, task, task_version_id, wanted_version, state, reason, message, payload, payload_sha256,
                     payload_size, tags, traceparent, idempotency_key, held_since, deadline_at, available_at, expires_at, resource_uid, resource_name,
                     resource_hash, parent_id, root_id, depth, detached)
    SELECT id, project_id, task, version_id, wanted_version, 'Queued', reason, message, payload, sha256,
           size, tags, traceparent, idempotency_key, CASE WHEN version_id IS NULL THEN ledger_now() END,
           ledger_now() + make_interval(secs => total_timeout), begins, begins + make_interval(secs => queue_ttl),
           resource_uid, resource_name, resource_hash, parent_id, root_id, depth, detached
      FROM known, LATERAL (SELECT least(greatest(start_at, ledger_now() + make_interval(secs => coalesce(delay, 0))), ledger_now() + interval '100 years') AS begins) b
     ORDER BY id
    ON CONFLICT DO NOTHING RETURNING id, task_version_id, created_at, available_at, expires_at, reason, message),
queued AS (
    INSERT INTO queue_entry (run_id, pod_key, queue_id, rank, available_at, expires_at)
    SELECT made.id, v.pod_key, v.queue_id, made.created_at - make_interval(secs => v.priority), made.available_at, made.expires_at
      FROM made JOIN task_version v ON v.id = made.task_version_id RETURNING run_id, pod_key, available_at),
told AS (
    INSERT INTO event (run_id, n, type, reason, message) SELECT id, 1, 'Queued', reason, message FROM made)
-- What was there already, and what may start now (or later: 0) of each pod key.
SELECT id, NULL AS pod_key, 0 AS due FROM item WHERE NOT EXISTS (SELECT FROM made WHERE made.id = item.id)
UNION ALL
SELECT NULL, pod_key, (count(*) FILTER (WHERE available_at <= ledger_now()))::integer FROM queued GROUP BY pod_key;
