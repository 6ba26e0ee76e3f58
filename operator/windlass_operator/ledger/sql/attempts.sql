-- name: open_attempts_of_pod
SELECT id, memory_bytes FROM attempt WHERE pod_id = %(pod_id)s AND closed_at IS NULL ORDER BY id;

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

-- name: lock_attempts
-- In attempt order, as everywhere. No token: the reaper's, who acts for the ledger itself. What is not answered is nobody's.
-- By an array, as in `claim_runs`.
WITH wanted AS (
    SELECT * FROM json_to_recordset(%(items)s::json) AS w (id uuid, token_hash text))
SELECT a.id, a.run_id, a.number, a.closed_at, a.answer, a.pod_id, a.started_at, a.lease_until < ledger_now() AS expired,
       (extract(epoch FROM ledger_now() - a.started_at) * 1000)::bigint AS running_ms, pod.pod_key, coalesce(pod.reuse, false) AS reuse
  FROM wanted w JOIN attempt a ON a.id = w.id AND (w.token_hash IS NULL OR a.token_hash = decode(w.token_hash, 'hex'))
  LEFT JOIN pod ON pod.id = a.pod_id WHERE a.id = ANY (ARRAY(SELECT id FROM wanted)) ORDER BY a.id FOR UPDATE OF a;

-- name: pod_of_attempt
SELECT pod.name FROM pod WHERE id = %(pod_id)s;

-- name: close_attempts
-- A step that was running when its attempt closed will run again. Answers the pod keys of the runs that may start in their
-- place, where a queue has a limit. By arrays, as in `claim_runs`.
WITH item AS (
    SELECT * FROM json_to_recordset(%(items)s::json) AS i (id uuid, outcome text, failure text, answer text)),
closed AS (
    UPDATE attempt SET closed_at = ledger_now(), outcome = i.outcome, failure = i.failure, answer = i.answer FROM item i
     WHERE attempt.id = i.id AND attempt.id = ANY (ARRAY(SELECT id FROM item)) AND attempt.closed_at IS NULL
    RETURNING attempt.run_id, attempt.queue_id),
undone AS (
    DELETE FROM step WHERE run_id = ANY (ARRAY(SELECT run_id FROM closed)) AND state = 'running')
SELECT next.pod_key, max(freed.n)::integer AS n FROM (SELECT queue_id, count(*) AS n FROM closed GROUP BY queue_id) freed
  JOIN queue q ON q.id = freed.queue_id AND q.concurrency IS NOT NULL
 CROSS JOIN LATERAL (
    SELECT e.pod_key FROM queue_entry e WHERE e.queue_id = q.id AND e.available_at <= ledger_now() ORDER BY e.rank
     LIMIT 19 + freed.n) next GROUP BY next.pod_key;

-- name: expired_attempts
-- Leases say when the reaper may close; a gap in heartbeat service gives every open attempt one lease more.
SELECT a.id FROM attempt a, heartbeat_service h
 WHERE a.closed_at IS NULL AND a.lease_until < ledger_now()
   AND h.served_at > ledger_now() - %(gap)s::interval AND h.served_since < ledger_now() - %(lease)s::interval
 ORDER BY a.lease_until LIMIT 100;

-- name: serve_heartbeats
-- Answers how long nobody served, if that was a gap; and what nobody may have been told of: the one look of a process that has
-- nothing to do. What somebody has just written is not written again, nor locked.
WITH before AS (
    SELECT served_at, ledger_now() - served_at AS silence FROM heartbeat_service
     WHERE served_at <= ledger_now() - %(fresh)s::interval FOR UPDATE),
served AS (
    UPDATE heartbeat_service SET served_at = ledger_now(),
           served_since = CASE WHEN before.silence > %(gap)s::interval THEN ledger_now() ELSE served_since END
      FROM before RETURNING CASE WHEN before.silence > %(gap)s::interval THEN extract(epoch FROM before.silence)::float8 END AS gap)
SELECT (SELECT gap FROM served) AS gap,
       (SELECT extract(epoch FROM min(due_at) - ledger_now())::float8 FROM wait WHERE due_at IS NOT NULL) AS due_in,
       EXISTS (SELECT 1 FROM sent_event WHERE delivered_at IS NULL)
    OR EXISTS (SELECT 1 FROM token WHERE completed_at IS NOT NULL AND delivered_at IS NULL) AS undelivered;

-- name: list_attempts
SELECT a.id, a.number, a.started_at, a.closed_at, a.outcome, a.failure, a.memory_bytes, pod.name AS pod_name,
       pod.node, pod.reason AS pod_reason, pod.message AS pod_message, pod.last_state
  FROM attempt a LEFT JOIN pod ON pod.id = a.pod_id WHERE a.run_id = %(run_id)s ORDER BY a.number;
