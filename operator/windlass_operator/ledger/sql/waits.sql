-- name: register_waits
-- Begin waits under the attempt's fence. A wait that has begun keeps its time, and one that is over stays over: the step's row
-- decides, so whatever an earlier attempt began is not begun again. Answers the keys that began now; no row at all: closed.
WITH item AS (
    SELECT * FROM json_to_recordset(%(items)s::json) AS i (ord integer, key text, name text, args_hash text, kind text,
        due_in float8, due_at timestamptz, target text, detail text, place integer, code_id text)),
open AS (
    SELECT a.run_id, a.number, run.project_id FROM attempt a JOIN run ON run.id = a.run_id
     WHERE a.id = %(attempt_id)s AND a.token_hash = %(token_hash)s AND a.closed_at IS NULL FOR SHARE OF a),
noted AS (
    INSERT INTO step (run_id, key, name, args_hash, state, kind, attempt, place, code_id, started_at)
    SELECT open.run_id, i.key, i.name, i.args_hash, 'waiting', i.kind, open.number, i.place, i.code_id, ledger_now()
      FROM item i CROSS JOIN open ORDER BY i.ord
    ON CONFLICT (run_id, key) DO UPDATE SET state = 'waiting', kind = excluded.kind, args_hash = excluded.args_hash,
        name = excluded.name, attempt = excluded.attempt, place = excluded.place, code_id = excluded.code_id, error = NULL,
        started_at = excluded.started_at, finished_at = NULL
      WHERE step.state = 'running' OR (step.state = 'failed' AND NOT step.durable)
    RETURNING key),
begun AS (
    INSERT INTO wait (run_id, key, project_id, kind, due_at, target, detail)
    SELECT open.run_id, i.key, open.project_id, i.kind,
           coalesce(i.due_at, ledger_now() + make_interval(secs => i.due_in / 1000)), i.target, i.detail
      FROM item i JOIN noted ON noted.key = i.key CROSS JOIN open
    RETURNING key)
SELECT open.run_id, open.project_id, (SELECT coalesce(array_agg(key), '{}') FROM begun) AS begun FROM open;

-- name: over
-- A checkpoint's row of those steps that wait no more.
SELECT key, name, args_hash, state, attempt, kind, durable, tries, child_id, result, result_sha256, result_size, error, place, code_id,
       replaced, started_at, finished_at, position
  FROM step WHERE run_id = %(run_id)s AND key = ANY(%(keys)s) AND (state = 'succeeded' OR (state = 'failed' AND durable))
 ORDER BY position;

-- name: lock_runs
-- In order of id: two who lock several runs never wait for each other in a circle.
SELECT id, state FROM run WHERE id = ANY(%(run_ids)s) ORDER BY id FOR NO KEY UPDATE;

-- name: lock_free_runs
-- The same for loops that several processes run: what another one has in hand is left to it.
SELECT id, state FROM run WHERE id = ANY(%(run_ids)s) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED;

-- name: end_waits
-- The runs are locked, except where an open attempt ends a wait that it has just begun. What is not waited for any more is
-- left alone, so ending a wait twice changes nothing. By arrays, as in `claim_runs`.
WITH item AS (
    SELECT * FROM json_to_recordset(%(items)s::json) AS i (run_id uuid, key text, state text, result text, sha256 text,
        size bigint, error text)),
gone AS (
    DELETE FROM wait USING item i
     WHERE wait.run_id = i.run_id AND wait.run_id = ANY (ARRAY(SELECT run_id FROM item)) AND wait.key = i.key
    RETURNING wait.run_id, wait.key, wait.wake_group),
ended AS (
    UPDATE step SET state = i.state, durable = (i.state = 'failed'), result = i.result, result_sha256 = i.sha256,
           result_size = i.size, error = i.error, finished_at = ledger_now()
      FROM item i JOIN gone ON gone.run_id = i.run_id AND gone.key = i.key
     WHERE step.run_id = i.run_id AND step.run_id = ANY (ARRAY(SELECT run_id FROM item)) AND step.key = i.key
       AND step.state = 'waiting' RETURNING 1)
SELECT gone.run_id, gone.key, gone.wake_group, i.state, (SELECT count(*) FROM ended) AS ended
  FROM gone JOIN item i ON i.run_id = gone.run_id AND i.key = gone.key;

-- name: unfinished_groups
SELECT DISTINCT run_id, wake_group FROM wait WHERE run_id = ANY(%(run_ids)s) AND wake_group IS NOT NULL;

-- name: wake_runs
-- The runs are locked. Set-based: a thousand timers that ring together are a few statements.
WITH woken AS (
    UPDATE run SET state = 'Queued', reason = NULL, message = NULL, available_at = ledger_now(), revision = revision + 1
     WHERE id = ANY(%(run_ids)s) AND state = 'Waiting' RETURNING id, revision, task_version_id, created_at),
queued AS (
    INSERT INTO queue_entry (run_id, pod_key, queue_id, rank, available_at)
    SELECT woken.id, v.pod_key, v.queue_id, woken.created_at - make_interval(secs => v.priority), ledger_now()
      FROM woken JOIN task_version v ON v.id = woken.task_version_id RETURNING pod_key),
told AS (
    INSERT INTO event (run_id, n, type) SELECT id, revision, 'Woken' FROM woken)
SELECT pod_key, count(*)::integer AS n FROM queued GROUP BY pod_key;

-- name: due_waits
SELECT run_id, key, kind, name FROM (
    SELECT w.run_id, w.key, w.kind, w.due_at, s.name FROM wait w JOIN step s ON s.run_id = w.run_id AND s.key = w.key
     WHERE w.due_at <= ledger_now() ORDER BY w.due_at LIMIT %(limit)s) due;

-- name: next_due
SELECT extract(epoch FROM min(due_at) - ledger_now())::float8 AS seconds FROM wait WHERE due_at IS NOT NULL;

-- name: waits_of_run
SELECT w.key, s.name, w.kind, w.due_at, w.target, w.created_at FROM wait w JOIN step s ON s.run_id = w.run_id AND s.key = w.key
 WHERE w.run_id = %(run_id)s ORDER BY w.due_at NULLS LAST, w.key LIMIT %(limit)s;

-- name: count_waits
SELECT count(*) AS n FROM wait WHERE run_id = %(run_id)s;

-- name: group_waits
-- Which waits let the run go on only together. Those of earlier attempts are forgotten.
UPDATE wait SET wake_group = i.wake_group
  FROM (SELECT w.key, g.wake_group FROM wait w LEFT JOIN json_to_recordset(%(items)s::json) AS g (key text, wake_group integer)
            ON g.key = w.key WHERE w.run_id = %(run_id)s) i
 WHERE wait.run_id = %(run_id)s AND wait.key = i.key AND wait.wake_group IS DISTINCT FROM i.wake_group;
