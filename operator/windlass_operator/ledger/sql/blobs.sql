-- name: put_blob
INSERT INTO blob (run_id, sha256, size, data) VALUES (%(run_id)s, %(sha256)s, %(size)s, %(data)s) ON CONFLICT DO NOTHING;

-- name: get_blob
SELECT data FROM blob WHERE run_id = %(run_id)s AND sha256 = %(sha256)s;

-- name: has_blob
SELECT size FROM blob WHERE run_id = %(run_id)s AND sha256 = %(sha256)s;

-- name: delete_blobs
DELETE FROM blob WHERE run_id = %(run_id)s RETURNING sha256;

-- name: blob_runs
SELECT DISTINCT p.uid, blob.run_id FROM blob JOIN run ON run.id = blob.run_id JOIN project p ON p.id = run.project_id;

-- name: blob_keys
SELECT blob.run_id, blob.sha256 FROM blob JOIN run ON run.id = blob.run_id JOIN project p ON p.id = run.project_id
 WHERE p.uid = %(project_uid)s AND blob.run_id BETWEEN %(first)s AND %(last)s AND blob.data IS NOT NULL ORDER BY blob.run_id, blob.sha256;

-- name: orphaned_runs
-- Only of projects that this ledger knows: another installation may keep its values in the same bucket. The first 48 bits
-- of an id are the milliseconds at which it was made.
SELECT k.uid, k.id FROM unnest(%(uids)s::text[], %(ids)s::uuid[]) AS k (uid, id)
  JOIN project p ON p.uid = k.uid LEFT JOIN run ON run.id = k.id
 WHERE run.id IS NULL
   AND to_timestamp(('x0000' || left(replace(k.id::text, '-', ''), 12))::bit(64)::bigint / 1000.0)
       < ledger_now() - %(age)s::interval;
