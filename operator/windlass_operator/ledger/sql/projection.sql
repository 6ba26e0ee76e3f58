-- name: due
SELECT run_id, revision FROM projection_entry ORDER BY since, run_id LIMIT %(limit)s;

-- name: projected
-- Only where nothing changed since: the upsert of a newer change holds the row lock. An entry that is locked is being
-- asked for again, so it stays; waiting for many of them in an order of our own could end in a deadlock.
WITH shown AS (
    SELECT e.run_id
      FROM projection_entry e JOIN unnest(%(run_ids)s::uuid[], %(revisions)s::bigint[]) AS s (run_id, revision)
        ON e.run_id = s.run_id AND e.revision <= s.revision
       FOR UPDATE OF e SKIP LOCKED)
DELETE FROM projection_entry e USING shown WHERE e.run_id = shown.run_id
RETURNING extract(epoch FROM ledger_now() - e.since)::float8 AS waited;

-- name: expired_resources
-- The snapshot is not read as JSON: the server refuses all of a text in which it finds \u0000, and one Task whose source has it
-- would keep the resources of all others. Of what looks like the field the last one is it: after it comes nothing of the user's.
WITH finished AS (
    SELECT run.id, run.finished_at, run.task_version_id, run.project_id, run.resource_name AS name, run.resource_uid AS uid,
           run.resource_bound_at AS bound_at
      FROM run WHERE run.finished_at IS NOT NULL AND run.resource_uid IS NOT NULL
    UNION ALL
    SELECT run.id, run.finished_at, run.task_version_id, run.project_id, h.name, h.resource_uid, h.created_at
      FROM run_handle h JOIN run ON run.id = h.run_id WHERE run.finished_at IS NOT NULL)
SELECT f.id, f.name AS resource_name, f.uid AS resource_uid, p.namespace
  FROM finished f JOIN project p ON p.id = f.project_id LEFT JOIN task_version v ON v.id = f.task_version_id
 WHERE greatest(f.finished_at, f.bound_at)
       + make_interval(secs => coalesce(substring(v.spec FROM '.*"ttl_seconds":([0-9.eE+-]+)')::float8, %(default_ttl)s)) <= ledger_now()
   AND NOT EXISTS (SELECT 1 FROM projection_entry e WHERE e.run_id = f.id)
 ORDER BY f.finished_at LIMIT 200;

-- name: release_resource
-- Our own TTL removed the resource: the name and hash stay, so that a re-created one binds to this run.
WITH handle AS (DELETE FROM run_handle WHERE resource_uid = %(resource_uid)s)
UPDATE run SET resource_uid = NULL WHERE id = %(run_id)s AND resource_uid = %(resource_uid)s;

-- name: forget_resource
-- A person removed the resource of a finished run: one that is created again is meant to run again.
UPDATE run SET resource_uid = NULL, resource_hash = NULL WHERE id = %(run_id)s AND resource_uid = %(resource_uid)s
   AND finished_at IS NOT NULL;

-- name: forget_twin
-- What our TTL wanted to remove was not there any more.
UPDATE run SET resource_hash = NULL WHERE id = %(run_id)s AND resource_uid IS NULL;

-- name: unfinished_resources
SELECT run.id, run.resource_name, run.resource_uid, p.namespace FROM run JOIN project p ON p.id = run.project_id
 WHERE run.finished_at IS NULL AND run.state NOT IN ('Cancelling', 'Compensating') AND run.resource_uid IS NOT NULL AND run.created_at < ledger_now() - %(age)s::interval
UNION ALL
SELECT run.id, h.name, h.resource_uid, p.namespace
  FROM run_handle h JOIN run ON run.id = h.run_id JOIN project p ON p.id = run.project_id
 WHERE run.finished_at IS NULL AND run.state NOT IN ('Cancelling', 'Compensating') AND h.created_at < ledger_now() - %(age)s::interval;

-- name: take_epoch
UPDATE leader SET epoch = epoch + 1, holder = %(holder)s, since = ledger_now() RETURNING epoch;

-- name: check_epoch
SELECT 1 FROM leader WHERE epoch = %(epoch)s FOR SHARE;
