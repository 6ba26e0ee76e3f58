-- name: due
SELECT run_id, revision FROM projection_entry ORDER BY revision LIMIT %(limit)s;

-- name: projected
-- Only if nothing changed since: the upsert of a newer change holds the row lock, and we re-check after it.
DELETE FROM projection_entry WHERE run_id = %(run_id)s AND revision <= %(revision)s;

-- name: expired_resources
SELECT run.id, run.resource_name, run.resource_uid, p.namespace, v.spec, ledger_now() - run.finished_at AS finished_for
  FROM run JOIN project p ON p.id = run.project_id LEFT JOIN task_version v ON v.id = run.task_version_id
 WHERE run.finished_at IS NOT NULL AND run.resource_uid IS NOT NULL
   AND run.finished_at + make_interval(secs => coalesce((v.spec::json ->> 'ttl_seconds')::float8, %(default_ttl)s)) <= ledger_now()
   AND NOT EXISTS (SELECT 1 FROM projection_entry e WHERE e.run_id = run.id)
 ORDER BY run.finished_at LIMIT 200;

-- name: release_resource
-- Our own TTL removed the resource: the name and hash stay, so that a re-created one binds to this run.
UPDATE run SET resource_uid = NULL WHERE id = %(run_id)s AND resource_uid = %(resource_uid)s;

-- name: unfinished_resources
SELECT run.id, run.resource_name, run.resource_uid, p.namespace, p.uid AS project_uid FROM run JOIN project p ON p.id = run.project_id
 WHERE run.finished_at IS NULL AND run.resource_uid IS NOT NULL AND run.created_at < ledger_now() - %(age)s::interval ORDER BY run.id;

-- name: take_epoch
UPDATE leader SET epoch = epoch + 1, holder = %(holder)s, since = ledger_now() RETURNING epoch;

-- name: check_epoch
SELECT 1 FROM leader WHERE epoch = %(epoch)s FOR SHARE;
