-- name: save_steps
-- One statement and one parameter for a batch of many attempts (twelve arrays cost 0.2 ms more a step). The row locks make the fence real: a reaper that closes an attempt waits
-- for us, or we see it closed. By an array: joined, the planner reads all open attempts for the sake of a few. Locked in attempt order, so two batches never wait for each other in a circle.
-- Answers one row for each attempt that is open; steps of the others are not written.
WITH item AS (
    SELECT * FROM json_to_recordset(%(items)s::json) AS i (ord integer, attempt_id uuid, token_hash text, key text, name text,
        args_hash text, state text, result text, sha256 text, size bigint, error text, kind text, durable boolean, tries integer,
        place integer, code_id text, replaces boolean, age float8, duration float8, compensation text)),
open AS (
    SELECT a.id, a.run_id, a.number, a.token_hash FROM attempt a
     WHERE a.id = ANY (ARRAY(SELECT attempt_id FROM item)) AND a.closed_at IS NULL ORDER BY a.id FOR SHARE),
saved AS (
    INSERT INTO step (run_id, key, name, args_hash, state, attempt, result, result_sha256, result_size, error, kind, durable, tries,
                      place, code_id, replaced, started_at, finished_at, compensation, finished_n)
    SELECT open.run_id, i.key, i.name, i.args_hash, i.state, open.number, i.result, i.sha256, i.size, i.error, i.kind, i.durable, i.tries,
           i.place, i.code_id, i.replaces, ledger_now() - make_interval(secs => i.age / 1000),
           CASE WHEN i.state <> 'running' THEN ledger_now() - make_interval(secs => greatest(i.age - coalesce(i.duration, i.age), 0) / 1000) END,
           i.compensation, CASE WHEN i.compensation IS NOT NULL THEN nextval('step_finished_n') END
      FROM item i JOIN open ON open.id = i.attempt_id AND open.token_hash = decode(i.token_hash, 'hex')
     ORDER BY i.ord
    ON CONFLICT (run_id, key) DO UPDATE SET state = excluded.state, args_hash = excluded.args_hash, attempt = excluded.attempt,
        result = excluded.result, result_sha256 = excluded.result_sha256, result_size = excluded.result_size,
        error = excluded.error, kind = excluded.kind, durable = excluded.durable, tries = excluded.tries, place = excluded.place, code_id = excluded.code_id,
        replaced = excluded.replaced, started_at = excluded.started_at, finished_at = excluded.finished_at,
        compensation = excluded.compensation, finished_n = excluded.finished_n
      -- History is never overwritten, but for what the user's `migrate` dropped, by what took its place.
      WHERE (step.state IN ('running', 'failed') AND NOT step.durable)
         OR (excluded.replaced AND NOT step.replaced AND excluded.state = 'succeeded'))
SELECT id, token_hash, run_id FROM open;

-- name: finished_steps
-- With the pauses between two tries of a step, also those that are not over: the step must not be tried before.
SELECT key, name, args_hash, state, attempt, kind, durable, tries, child_id, result, result_sha256, result_size, error, place, code_id, replaced,
       started_at, finished_at, position
  FROM step WHERE run_id = %(run_id)s AND (state = 'succeeded' OR (state = 'failed' AND durable) OR (state = 'waiting' AND kind = 'sleep' AND key LIKE '%%~try%%'))
   AND position > %(after)s ORDER BY position LIMIT %(limit)s;

-- name: steps_of_attempt
SELECT key, name, state, error, started_at, finished_at FROM step
 WHERE run_id = %(run_id)s AND attempt = %(number)s ORDER BY position LIMIT %(limit)s;

-- name: list_steps
SELECT key, name, args_hash, state, attempt, kind, durable, tries, child_id, result, result_sha256, result_size, error, place, code_id, replaced,
       started_at, finished_at, position,
       state = 'running' AND EXISTS (SELECT FROM attempt o JOIN protection t ON t.attempt_id = o.id
                                      WHERE o.run_id = step.run_id AND o.closed_at IS NULL AND t.key = step.key AND t.ended_at IS NULL) AS protected
  FROM step WHERE run_id = %(run_id)s AND position > %(after)s ORDER BY position LIMIT %(limit)s;

-- name: rerun_steps
-- Failures that ended an attempt are no history: the run is retried for their sake. With them go the pauses between their
-- tries, or the next attempt would find all tries used. An approval stays over: its question was put to people, and is closed.
WITH again AS (
    UPDATE step SET durable = false
     WHERE run_id = %(run_id)s AND key = ANY(%(keys)s) AND state = 'failed' AND kind IN ('step', 'run', 'event', 'token') AND durable)
DELETE FROM step WHERE run_id = %(run_id)s AND kind = 'sleep' AND state <> 'waiting' AND key LIKE '%%~try%%' AND split_part(key, '~try', 1) = ANY(%(keys)s);
