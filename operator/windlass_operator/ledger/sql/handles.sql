-- name: take_keys
-- The key of a run that failed is free again. Asked the other way round (is there a run that has not?) the answer would be
-- wrong for a run that was committed while we waited for its key: this statement cannot see it. In order of the keys, so
-- two that take the same ones never wait for each other in a circle.
INSERT INTO idempotency_key (project_id, task, key, run_id, expires_at)
SELECT %(project_id)s, task, key, run_id, ledger_now() + %(keep)s::interval
  FROM unnest(%(tasks)s::text[], %(keys)s::text[], %(run_ids)s::uuid[]) AS wanted (task, key, run_id) ORDER BY task, key
ON CONFLICT (project_id, task, key) DO UPDATE SET run_id = excluded.run_id, expires_at = excluded.expires_at
  WHERE idempotency_key.expires_at <= ledger_now()
     OR EXISTS (SELECT 1 FROM run WHERE run.id = idempotency_key.run_id AND run.state IN ('Failed', 'TimedOut', 'Cancelled'))
RETURNING task, key;

-- name: holders
SELECT k.task, k.key, k.run_id FROM unnest(%(tasks)s::text[], %(keys)s::text[]) AS wanted (task, key)
  JOIN idempotency_key k ON k.project_id = %(project_id)s AND k.task = wanted.task AND k.key = wanted.key;

-- name: forget_keys
DELETE FROM idempotency_key WHERE (project_id, task, key) IN (
    SELECT project_id, task, key FROM idempotency_key WHERE expires_at <= ledger_now() ORDER BY expires_at LIMIT 1000);

-- name: attach
WITH handle AS (
    INSERT INTO run_handle (resource_uid, run_id, name, spec_hash)
    VALUES (%(resource_uid)s, %(run_id)s, %(name)s, %(spec_hash)s) RETURNING run_id)
UPDATE run SET revision = revision + 1 FROM handle WHERE run.id = handle.run_id RETURNING run.revision;

-- name: detach
DELETE FROM run_handle WHERE resource_uid = %(resource_uid)s RETURNING run_id;

-- name: inherit
-- The resource that asked for the run is gone: the oldest handle takes its place.
WITH heir AS (
    DELETE FROM run_handle WHERE resource_uid = (
        SELECT resource_uid FROM run_handle WHERE run_id = %(run_id)s ORDER BY created_at, resource_uid LIMIT 1)
    RETURNING *)
UPDATE run SET resource_uid = heir.resource_uid, resource_name = heir.name, resource_hash = heir.spec_hash,
       resource_generation = heir.generation, resource_changed = heir.changed, resource_bound_at = heir.created_at,
       revision = revision + 1
  FROM heir WHERE run.id = heir.run_id AND run.resource_uid = %(resource_uid)s
RETURNING run.id, run.revision, heir.name;

-- name: handles_of
SELECT run_id, resource_uid, name, generation, changed FROM run_handle WHERE run_id = ANY(%(run_ids)s) ORDER BY created_at, resource_uid;
