-- name: pod_for_claim
SELECT pod.id, pod.pod_key, pod.project_id, pod.claim_id, pod.state, pod.name, p.credential_hash, p.namespace, p.uid AS project_uid
  FROM pod JOIN project p ON p.id = pod.project_id WHERE pod.uid = %(pod_uid)s AND pod.name = %(pod_name)s FOR UPDATE OF pod;

-- name: use_pod
UPDATE pod SET claim_id = %(claim_id)s WHERE id = %(pod_id)s;

-- name: withdraw_pod
-- The runner must stop: a claim of this pod that is still on its way finds the pod ended and takes nothing.
UPDATE pod SET claim_id = %(claim_id)s, state = 'Ended' WHERE id = %(pod_id)s;

-- name: claim_runs
-- Take up to :n runs that may start. SKIP LOCKED: two claimers never wait for each other. The entry is deleted, not
-- updated: the hot table stays small and its index never churns. MATERIALIZED: as a subquery it could be executed once
-- for each row, each time with another :n, and a run that is taken without an attempt is stuck for ever.
WITH admitting AS (
    SELECT * FROM unnest(%(queue_ids)s::bigint[], %(free)s::integer[]) AS q (id, free)),
due AS MATERIALIZED (
    SELECT e.run_id FROM admitting CROSS JOIN LATERAL (
        SELECT run_id, rank FROM queue_entry
         WHERE pod_key = %(pod_key)s AND queue_id = admitting.id AND available_at <= ledger_now()
           AND (expires_at IS NULL OR expires_at > ledger_now())
         ORDER BY rank, run_id LIMIT least(admitting.free, %(n)s) FOR UPDATE SKIP LOCKED) e
     ORDER BY e.rank, e.run_id LIMIT %(n)s),
taken AS (
    DELETE FROM queue_entry USING due WHERE queue_entry.run_id = due.run_id RETURNING queue_entry.run_id, queue_entry.queue_id)
UPDATE run SET state = CASE WHEN state = 'Compensating' THEN state ELSE 'Running' END, undoing = state = 'Compensating',
       reason = ends_reason, message = ends_message, held_since = NULL, attempts = attempts + 1,
       started_at = coalesce(started_at, ledger_now()), revision = revision + 1
  FROM taken WHERE run.id = taken.run_id AND run.state IN ('Queued', 'Compensating')
RETURNING run.id, run.attempts AS number, run.revision, run.state, taken.queue_id;

-- name: open_attempt
INSERT INTO attempt (id, run_id, number, pod_id, queue_id, token_hash, started_at, lease_until)
VALUES (%(id)s, %(run_id)s, %(number)s, %(pod_id)s, %(queue_id)s, %(token_hash)s, ledger_clock(), ledger_clock() + %(lease)s::interval);

-- name: pod_claimed
WITH claimed AS (UPDATE pod SET state = 'Claimed' WHERE id = %(pod_id)s RETURNING pod_key)
UPDATE pod_key SET failures = 0, backoff_until = NULL, reason = NULL, message = NULL
  FROM claimed WHERE key = claimed.pod_key AND (failures > 0 OR reason IS NOT NULL);

-- name: open_attempts_of_pod
SELECT id, memory_bytes FROM attempt WHERE pod_id = %(pod_id)s AND closed_at IS NULL ORDER BY id;

-- name: renew_token
-- The answer to the first claim was lost; the token in it was never used.
UPDATE attempt SET token_hash = %(token_hash)s, lease_until = ledger_now() + %(lease)s::interval
 WHERE id = %(id)s AND closed_at IS NULL RETURNING id;

-- name: claimed_attempt
SELECT a.id, a.number, a.started_at, run.available_at, run.id AS run_id, run.task, run.payload, run.payload_sha256, run.payload_size, run.running_ms,
       run.timeout_added_ms, a.timeout_added_ms AS attempt_added_ms,
       (extract(epoch FROM run.deadline_at - a.started_at) * 1000)::bigint AS deadline_ms, c.state AS checkpoint,
       c.state_sha256 AS checkpoint_sha256, c.state_size AS checkpoint_size,
       run.state, run.tags, run.traceparent, run.resource_name, v.spec, p.namespace
  FROM attempt a JOIN run ON run.id = a.run_id JOIN task_version v ON v.id = run.task_version_id
  JOIN project p ON p.id = run.project_id LEFT JOIN checkpoint c ON c.run_id = run.id WHERE a.id = ANY(%(ids)s) ORDER BY a.id;

-- name: heartbeat
-- The row lock is the fence: a reaper that closes an attempt waits for us, or we see it closed. Locked in attempt order.
WITH beat AS (
    SELECT b.id, b.token_hash, b.memory_bytes FROM unnest(%(ids)s::uuid[], %(token_hashes)s::bytea[], %(memory)s::bigint[])
           AS b (id, token_hash, memory_bytes)),
held AS (
    SELECT a.id, beat.memory_bytes FROM attempt a JOIN beat ON beat.id = a.id AND beat.token_hash = a.token_hash
     WHERE a.closed_at IS NULL ORDER BY a.id FOR NO KEY UPDATE OF a),
renewed AS (
    UPDATE attempt SET lease_until = ledger_now() + %(lease)s::interval, memory_bytes = coalesce(held.memory_bytes, attempt.memory_bytes)
      FROM held WHERE attempt.id = held.id RETURNING attempt.id, attempt.run_id, attempt.timeout_added_ms)
SELECT renewed.id, run.state, run.timeout_added_ms AS run_added_ms, renewed.timeout_added_ms AS attempt_added_ms FROM renewed JOIN run ON run.id = renewed.run_id;

-- name: authenticate
-- Who writes, open or not. Writes check openness again, under the row lock.
SELECT a.id, a.run_id, a.number, a.closed_at, run.project_id, p.uid AS project_uid, p.namespace
  FROM attempt a JOIN run ON run.id = a.run_id JOIN project p ON p.id = run.project_id
 WHERE a.id = %(id)s AND a.token_hash = %(token_hash)s;

-- name: lock_attempt
SELECT a.id, a.run_id, a.number, a.closed_at, a.answer, a.pod_id, a.started_at, a.lease_until < ledger_now() AS expired,
       (extract(epoch FROM ledger_now() - a.started_at) * 1000)::bigint AS running_ms
  FROM attempt a WHERE a.id = %(id)s AND (%(token_hash)s::bytea IS NULL OR a.token_hash = %(token_hash)s) FOR UPDATE;

-- name: pod_of_attempt
SELECT pod.name FROM pod WHERE id = %(pod_id)s;

-- name: close_attempt
UPDATE attempt SET closed_at = ledger_now(), outcome = %(outcome)s, failure = %(failure)s, answer = %(answer)s
 WHERE id = %(id)s AND closed_at IS NULL RETURNING id;

-- name: abandon_running_steps
-- A step that was running when its attempt closed will run again.
DELETE FROM step WHERE run_id = %(run_id)s AND state = 'running';

-- name: expired_attempts
-- Leases say when the reaper may close; a gap in heartbeat service gives every open attempt one lease more.
SELECT a.id FROM attempt a, heartbeat_service h
 WHERE a.closed_at IS NULL AND a.lease_until < ledger_now()
   AND h.served_at > ledger_now() - %(gap)s::interval AND h.served_since < ledger_now() - %(lease)s::interval
 ORDER BY a.lease_until LIMIT 100;

-- name: serve_heartbeats
-- Answers how long nobody served, if that was a gap.
WITH before AS (SELECT served_at, ledger_now() - served_at AS silence FROM heartbeat_service FOR UPDATE)
UPDATE heartbeat_service SET served_at = ledger_now(),
       served_since = CASE WHEN before.silence > %(gap)s::interval THEN ledger_now() ELSE served_since END
  FROM before RETURNING CASE WHEN before.silence > %(gap)s::interval THEN extract(epoch FROM before.silence)::float8 END AS gap;

-- name: list_attempts
SELECT a.id, a.number, a.started_at, a.closed_at, a.outcome, a.failure, a.memory_bytes, pod.name AS pod_name,
       pod.node, pod.reason AS pod_reason, pod.message AS pod_message, pod.last_state
  FROM attempt a LEFT JOIN pod ON pod.id = a.pod_id WHERE a.run_id = %(run_id)s ORDER BY a.number;
