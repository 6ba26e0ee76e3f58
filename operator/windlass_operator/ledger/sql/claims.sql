-- name: find_pod
-- The key of a pod that asks for work. Nothing is proven here.
SELECT id, pod_key FROM pod WHERE uid = %(pod_uid)s AND name = %(pod_name)s;

-- name: lock_pods
-- Who asks for work, in order of id: two batches that share pods never wait for each other in a circle. NO KEY: the attempts
-- that refer to the rows need not wait.
SELECT pod.id, pod.uid, pod.name, pod.pod_key, pod.claim_id, pod.state, pod.ahead, pod.reuse, pod.slots, pod.draining, pod.session_hash, pod.idle_since,
       p.credential_hash
  FROM pod JOIN project p ON p.id = pod.project_id WHERE pod.id = ANY(%(ids)s) ORDER BY pod.id FOR NO KEY UPDATE OF pod;

-- name: attempts_of_pods
-- What pods hold, and what these claims of theirs took that has been ended by its runner since. What was lost or handed back
-- may never have reached anybody: who asks for it again may take something else.
SELECT a.pod_id, a.id, a.claim_id, true AS open FROM attempt a WHERE a.pod_id = ANY(%(ids)s) AND a.closed_at IS NULL
UNION ALL
SELECT a.pod_id, a.id, a.claim_id, false FROM unnest(%(pods)s::uuid[], %(claims)s::text[]) AS c (pod_id, claim_id)
  JOIN attempt a ON a.pod_id = c.pod_id AND a.claim_id = c.claim_id WHERE a.closed_at IS NOT NULL AND a.outcome NOT IN ('Lost', 'Released')
 ORDER BY id;

-- name: note_claims
-- Of pods that ask for the first time with a credential: it serves this claim and no other.
UPDATE pod SET claim_id = c.claim_id, session_hash = coalesce(c.session_hash, pod.session_hash)
  FROM unnest(%(ids)s::uuid[], %(claims)s::text[], %(sessions)s::bytea[]) AS c (id, claim_id, session_hash) WHERE pod.id = c.id;

-- name: withdraw_pod
-- The runner must stop: a claim of this pod that is still on its way finds it so and takes nothing.
UPDATE pod SET claim_id = CASE WHEN reuse THEN claim_id ELSE %(claim_id)s END, draining = draining OR reuse,
       state = CASE WHEN reuse THEN state ELSE 'Ended' END
 WHERE id = %(id)s;

-- name: renew_tokens
-- The answer to a claim was lost; the tokens in it were never used. Locked in attempt order, as everywhere.
WITH held AS (
    SELECT a.id, r.token_hash FROM unnest(%(ids)s::uuid[], %(token_hashes)s::bytea[]) AS r (id, token_hash) JOIN attempt a ON a.id = r.id
     WHERE a.closed_at IS NULL ORDER BY a.id FOR NO KEY UPDATE OF a)
UPDATE attempt SET token_hash = held.token_hash, lease_until = ledger_now() + %(lease)s::interval
  FROM held WHERE attempt.id = held.id RETURNING attempt.id;

-- name: claim_runs
-- Take up to :n runs that may start, and open their attempts, the first one in the first place that is offered. SKIP LOCKED,
-- of what is taken and not of the first ones of each queue: two claimers never wait for each other. The entry is deleted, not
-- updated: the hot table stays small and its index never churns. MATERIALIZED: as a subquery it could be executed once for
-- each row, each time with another :n, and a run that is taken without an attempt is stuck for ever. Rows of large tables by
-- an array: for a join, the planner takes a few for hundreds and reads the whole table. The answer is what a runner needs,
-- as in `claimed_attempts`.
WITH admitting AS (
    SELECT * FROM unnest(%(queue_ids)s::bigint[], %(free)s::integer[]) AS q (id, free)),
due AS MATERIALIZED (
    SELECT run_id FROM queue_entry WHERE run_id = ANY (ARRAY(
        SELECT c.run_id FROM admitting CROSS JOIN LATERAL (
            SELECT run_id FROM queue_entry
             WHERE pod_key = %(pod_key)s AND queue_id = admitting.id AND available_at <= ledger_now()
               AND (expires_at IS NULL OR expires_at > ledger_now())
             ORDER BY rank, run_id LIMIT admitting.free) c))
     ORDER BY rank, run_id LIMIT %(n)s FOR UPDATE SKIP LOCKED),
taken AS (
    DELETE FROM queue_entry WHERE run_id = ANY (ARRAY(SELECT run_id FROM due)) RETURNING run_id, queue_id, rank),
begun AS (
    UPDATE run SET state = CASE WHEN state = 'Compensating' THEN state ELSE 'Running' END, undoing = state = 'Compensating',
           reason = ends_reason, message = ends_message, held_since = NULL, attempts = attempts + 1,
           started_at = coalesce(started_at, ledger_now()), revision = revision + 1
      FROM taken WHERE run.id = taken.run_id AND run.id = ANY (ARRAY(SELECT run_id FROM due)) AND run.state IN ('Queued', 'Compensating')
    RETURNING run.*, taken.queue_id, taken.rank),
placed AS (
    SELECT begun.*, row_number() OVER (ORDER BY rank, id) AS n FROM begun),
place AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(token_hashes)s::bytea[], %(pods)s::uuid[], %(claims)s::text[])
      WITH ORDINALITY AS p (id, token_hash, pod_id, claim_id, n)),
opened AS (
    INSERT INTO attempt (id, run_id, number, pod_id, claim_id, queue_id, token_hash, started_at, lease_until)
    SELECT place.id, placed.id, placed.attempts, place.pod_id, place.claim_id, placed.queue_id, place.token_hash, ledger_clock(),
           ledger_clock() + %(lease)s::interval FROM placed LEFT JOIN place USING (n)
    RETURNING id, run_id, pod_id, started_at, timeout_added_ms),
told AS (
    INSERT INTO event (run_id, n, type, attempt) SELECT id, revision, state, attempts FROM placed),
shown AS (
    INSERT INTO projection_entry (run_id, revision)
    SELECT id, revision FROM placed
     WHERE resource_uid IS NOT NULL OR EXISTS (SELECT 1 FROM run_handle h WHERE h.run_id = placed.id)
    ON CONFLICT (run_id) DO UPDATE SET revision = excluded.revision)
SELECT a.id, a.pod_id, run.attempts AS number, a.started_at, run.available_at, run.id AS run_id, run.task, run.payload, run.payload_sha256,
       run.payload_size, run.running_ms, run.timeout_added_ms, a.timeout_added_ms AS attempt_added_ms,
       (extract(epoch FROM run.deadline_at - a.started_at) * 1000)::bigint AS deadline_ms, c.state AS checkpoint,
       c.state_sha256 AS checkpoint_sha256, c.state_size AS checkpoint_size,
       run.state, run.tags, run.traceparent, run.resource_name, v.spec, p.namespace,
       EXISTS (SELECT 1 FROM step WHERE step.run_id = run.id) AS history
  FROM opened a JOIN placed run ON run.id = a.run_id JOIN task_version v ON v.id = run.task_version_id
  JOIN project p ON p.id = run.project_id LEFT JOIN checkpoint c ON c.run_id = run.id ORDER BY a.id;

-- name: pods_claimed
-- Of pods that took something: those for which that is news.
WITH claimed AS (
    UPDATE pod SET state = CASE WHEN state = 'Ended' THEN state ELSE 'Claimed' END, idle_since = NULL
     WHERE id = ANY(%(ids)s) AND (state NOT IN ('Claimed', 'Ended') OR idle_since IS NOT NULL) RETURNING pod_key)
UPDATE pod_key SET failures = 0, backoff_until = NULL, reason = NULL, message = NULL
 WHERE key IN (SELECT pod_key FROM claimed) AND (failures > 0 OR reason IS NOT NULL);

-- name: pods_idle
UPDATE pod SET idle_since = ledger_now() WHERE id = ANY(%(ids)s) AND idle_since IS NULL;

-- name: claimed_attempts
-- What a runner needs. `history`: whether the run has steps at all; most have none when they begin.
SELECT a.id, a.pod_id, a.number, a.started_at, run.available_at, run.id AS run_id, run.task, run.payload, run.payload_sha256, run.payload_size, run.running_ms,
       run.timeout_added_ms, a.timeout_added_ms AS attempt_added_ms,
       (extract(epoch FROM run.deadline_at - a.started_at) * 1000)::bigint AS deadline_ms, c.state AS checkpoint,
       c.state_sha256 AS checkpoint_sha256, c.state_size AS checkpoint_size,
       run.state, run.tags, run.traceparent, run.resource_name, v.spec, p.namespace,
       EXISTS (SELECT 1 FROM step WHERE step.run_id = run.id) AS history
  FROM attempt a JOIN run ON run.id = a.run_id JOIN task_version v ON v.id = run.task_version_id
  JOIN project p ON p.id = run.project_id LEFT JOIN checkpoint c ON c.run_id = run.id WHERE a.id = ANY(%(ids)s) ORDER BY a.id;

-- name: look
-- Whether anything of a key may start, or when; and of which of those who wait for it more has to be looked at: pods that
-- are to leave or have become idle, and claims that took something already. The one statement that idle runners cost.
SELECT (SELECT extract(epoch FROM min(available_at) - ledger_now())::float8 FROM queue_entry WHERE pod_key = %(pod_key)s) AS due_in,
       ARRAY(SELECT w.n::integer FROM unnest(%(pods)s::uuid[], %(claims)s::text[]) WITH ORDINALITY AS w (pod_id, claim_id, n)
              WHERE EXISTS (SELECT 1 FROM attempt a WHERE a.pod_id = w.pod_id AND a.claim_id = w.claim_id AND a.closed_at IS NULL)
                 OR NOT EXISTS (SELECT 1 FROM pod WHERE pod.id = w.pod_id AND NOT pod.draining AND pod.state <> 'Ended')
                 OR EXISTS (SELECT 1 FROM pod WHERE pod.id = w.pod_id AND pod.reuse AND pod.idle_since IS NULL
                               AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.pod_id = pod.id AND a.closed_at IS NULL))) AS news;
