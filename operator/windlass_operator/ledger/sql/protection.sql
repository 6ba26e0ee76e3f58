-- name: note
-- Steps that begin or end. The row lock is the fence, as for every write. A request that was held up on its way, and comes after the
-- step's end, protects nothing any more. Answers the run, if the attempt is open.
WITH open AS (
    SELECT id, run_id, number, pod_id FROM attempt
     WHERE id = %(attempt_id)s AND token_hash = %(token_hash)s AND closed_at IS NULL FOR SHARE),
noted AS (
    INSERT INTO protection (attempt_id, key, pod_id, ended_at)
    SELECT open.id, i.key, open.pod_id, CASE WHEN NOT i.running THEN ledger_now() END
      FROM open, unnest(%(keys)s::text[], %(running)s::boolean[]) AS i (key, running)
     WHERE NOT i.running OR NOT EXISTS (
           SELECT FROM step s WHERE s.run_id = open.run_id AND s.key = i.key AND s.attempt = open.number AND s.state IN ('succeeded', 'failed'))
    ON CONFLICT (attempt_id, key) DO UPDATE SET ended_at = coalesce(protection.ended_at, excluded.ended_at))
SELECT run_id FROM open;

-- name: of_attempt
-- With the row lock: whoever takes the annotations off has counted the protected steps under it, ours among them, or has said before
-- that they may be gone.
SELECT pod.protection, pod.name FROM attempt a JOIN pod ON pod.id = a.pod_id
 WHERE a.id = %(attempt_id)s AND pod.deleted_at IS NULL AND pod.ended_at IS NULL FOR SHARE OF pod;

-- name: look
-- Pods that carry annotations or are to, and whether that is to change. The annotations stay a moment longer than a step, which
-- spares the cluster two writes for each of several in a row.
WITH wanted AS (
    SELECT DISTINCT p.pod_id AS id FROM protection p JOIN attempt a ON a.id = p.attempt_id
     WHERE p.pod_id IS NOT NULL AND a.closed_at IS NULL AND (p.ended_at IS NULL OR p.ended_at > ledger_now() - %(linger)s::interval)),
candidate AS (SELECT id FROM wanted UNION SELECT id FROM pod WHERE protection IS NOT NULL)
SELECT pod.id, pod.protection IS DISTINCT FROM CASE WHEN wanted.id IS NOT NULL THEN 'Protected' END AS to_change
  FROM candidate JOIN pod USING (id) LEFT JOIN wanted USING (id)
 WHERE pod.deleted_at IS NULL AND pod.uid IS NOT NULL ORDER BY 2 DESC, 1 LIMIT 200;

-- name: lock
SELECT id FROM pod WHERE id = ANY(%(ids)s) ORDER BY id FOR NO KEY UPDATE;

-- name: begin
-- Counted in a statement after the lock: a step that was noted before is seen, and one that comes later waits until this is committed.
WITH wanted AS (
    SELECT DISTINCT p.pod_id AS id FROM protection p JOIN attempt a ON a.id = p.attempt_id
     WHERE p.pod_id = ANY(%(ids)s) AND a.closed_at IS NULL AND (p.ended_at IS NULL OR p.ended_at > ledger_now() - %(linger)s::interval))
UPDATE pod SET protection = 'Changing'
  FROM pod_key k
 WHERE pod.id = ANY(%(ids)s) AND k.key = pod.pod_key AND pod.deleted_at IS NULL
   AND pod.protection IS DISTINCT FROM CASE WHEN EXISTS (SELECT FROM wanted WHERE wanted.id = pod.id) THEN 'Protected' END
RETURNING pod.id, pod.name, pod.namespace, pod.uid, pod.pod_key, k.parts, EXISTS (SELECT FROM wanted WHERE wanted.id = pod.id) AS wanted;

-- name: done
UPDATE pod SET protection = CASE WHEN %(wanted)s THEN 'Protected' END WHERE id = %(id)s AND protection = 'Changing';

-- name: doubt
-- The pod was seen to be other than it was believed to be.
UPDATE pod SET protection = 'Changing' WHERE id = %(id)s AND deleted_at IS NULL AND protection IS NOT DISTINCT FROM %(believed)s;

-- name: tidy
WITH left_behind AS (
    DELETE FROM protection p USING attempt a
     WHERE a.id = p.attempt_id AND (a.closed_at IS NOT NULL OR p.ended_at < ledger_now() - %(linger)s::interval))
UPDATE pod SET protection = NULL WHERE protection IS NOT NULL AND deleted_at IS NOT NULL;

-- name: count
SELECT count(*) AS n FROM pod WHERE protection IS NOT NULL AND deleted_at IS NULL;
