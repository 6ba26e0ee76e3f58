-- name: lock_attempt
-- The fence. Before the run's row: the end of an attempt locks the two in that order.
SELECT a.number FROM attempt a WHERE a.id = %(attempt_id)s AND a.token_hash = %(token_hash)s AND a.closed_at IS NULL FOR SHARE;

-- name: lock_parent
-- A cancellation takes the whole row. Either it is seen here and nothing is started, or it waits for this transaction, and
-- whoever cancels the children then finds all of them.
SELECT project_id, state, coalesce(root_id, id) AS root_id, depth FROM run WHERE id = %(run_id)s FOR KEY SHARE;

-- name: trace
SELECT traceparent FROM run WHERE id = %(run_id)s;

-- name: started
-- Without those whose run has failed if the step is to be run again: that needs a new run. One whose wait alone was too short is to
-- be waited for again.
SELECT s.key, s.child_id, s.args_hash, s.state = 'failed' AND NOT s.durable AS again
  FROM step s LEFT JOIN run c ON c.id = s.child_id
 WHERE s.run_id = %(run_id)s AND s.key = ANY(%(keys)s) AND s.child_id IS NOT NULL
   AND NOT (s.state = 'failed' AND NOT s.durable AND (c.id IS NULL OR (c.finished_at IS NOT NULL AND c.state <> 'Succeeded')));

-- name: note_children
-- The steps that have started runs, and the waits for those that are waited for. A key that has a step already gets none:
-- the caller counts the rows.
WITH item AS (
    SELECT * FROM json_to_recordset(%(items)s::json) AS i (ord integer, key text, name text, args_hash text, child_id uuid,
        awaited boolean, due_in float8, place integer, code_id text)),
noted AS (
    INSERT INTO step (run_id, key, name, args_hash, state, kind, attempt, child_id, place, code_id, result, started_at, finished_at)
    SELECT %(run_id)s, key, name, args_hash, CASE WHEN awaited THEN 'waiting' ELSE 'succeeded' END, 'run', %(number)s, child_id, place, code_id,
           CASE WHEN NOT awaited THEN to_json(child_id)::text END, ledger_now(), CASE WHEN NOT awaited THEN ledger_now() END
      FROM item ORDER BY ord
    ON CONFLICT (run_id, key) DO UPDATE SET state = excluded.state, kind = excluded.kind, args_hash = excluded.args_hash,
        name = excluded.name, attempt = excluded.attempt, child_id = excluded.child_id, place = excluded.place,
        code_id = excluded.code_id, result = excluded.result, error = NULL,
        started_at = excluded.started_at, finished_at = excluded.finished_at
      WHERE step.state = 'running' OR (step.state = 'failed' AND NOT step.durable)
    RETURNING key),
begun AS (
    INSERT INTO wait (run_id, key, project_id, kind, due_at, target)
    SELECT %(run_id)s, i.key, %(project_id)s, 'run', ledger_now() + make_interval(secs => i.due_in / 1000), i.child_id::text
      FROM item i JOIN noted ON noted.key = i.key WHERE i.awaited
    RETURNING 1)
SELECT count(*) AS n FROM noted, (SELECT count(*) FROM begun) AS done;

-- name: ancestors
-- Of these runs, the run itself and those whose code has led to it.
WITH RECURSIVE up AS (
    SELECT id, parent_id FROM run WHERE id = %(run_id)s
    UNION ALL SELECT run.id, run.parent_id FROM run JOIN up ON run.id = up.parent_id)
SELECT id FROM up WHERE id = ANY(%(ids)s);

-- name: ended
-- Waits for runs that have ended. Without the step's own reference the target, which is text, would have to be believed.
SELECT w.run_id, w.key, c.id, c.task, c.state, c.reason, c.message, c.error, c.result, c.result_sha256, c.result_size
  FROM wait w JOIN step s ON s.run_id = w.run_id AND s.key = w.key JOIN run c ON c.id = s.child_id
 WHERE w.kind = 'run' AND c.finished_at IS NOT NULL

-- name: of_targets
AND w.target = ANY(%(targets)s)

-- name: orphans
-- Children that must end because their parent was cancelled or ran out of time.
SELECT c.id FROM run c JOIN run p ON p.id = c.parent_id
 WHERE c.parent_id IS NOT NULL AND c.finished_at IS NULL AND NOT c.detached AND c.state NOT IN ('Cancelling', 'Compensating')
   AND (p.state IN ('Cancelling', 'Cancelled', 'TimedOut') OR (p.state = 'Compensating' AND p.ends_as <> 'Failed'))

-- name: of_parents
AND c.parent_id = ANY(%(parents)s)

-- name: limit
LIMIT %(limit)s

-- name: tree
-- From the top, one level after the other, until there are enough.
WITH RECURSIVE found AS (
    SELECT run.id FROM run WHERE id = %(run_id)s
    UNION ALL SELECT run.id FROM run JOIN found ON run.parent_id = found.id),
few AS (SELECT id FROM found LIMIT %(limit)s)
SELECT run.id, run.task, run.resource_name, run.parent_id, run.depth, run.detached, run.state, run.reason, run.message,
       run.created_at, run.started_at, run.finished_at, run.attempts
  FROM few JOIN run ON run.id = few.id ORDER BY run.depth, run.created_at, run.id;

-- name: source_of_value
SELECT child_id FROM step WHERE run_id = %(run_id)s AND result_sha256 = %(sha256)s AND child_id IS NOT NULL LIMIT 1;
