-- name: empty
-- Everything but who leads and since when heartbeats are served. One statement, so that foreign keys are checked at its end;
-- faster than TRUNCATE by far, for tables with a few rows.
WITH a AS (DELETE FROM event_taken), b AS (DELETE FROM sent_event), c AS (DELETE FROM event_name), d AS (DELETE FROM token),
     e AS (DELETE FROM approval), f AS (DELETE FROM checkpoint), g AS (DELETE FROM wait), h AS (DELETE FROM projection_entry),
     i AS (DELETE FROM idempotency_key), j AS (DELETE FROM run_handle), k AS (DELETE FROM log), l AS (DELETE FROM event),
     m AS (DELETE FROM step), n AS (DELETE FROM blob), o AS (DELETE FROM attempt), p AS (DELETE FROM queue_entry),
     q AS (DELETE FROM pod), r AS (DELETE FROM run), s AS (DELETE FROM task_version), t AS (DELETE FROM pod_key),
     u AS (DELETE FROM queue), v AS (DELETE FROM worker_pool), w AS (DELETE FROM task_head), x AS (DELETE FROM protection)
DELETE FROM project;

-- name: open_waits
-- What the runs that hold no attempt wait for, the next one due first.
SELECT w.run_id, run.task, w.key, s.name, w.kind, w.due_at, w.target, w.detail, a.question
  FROM wait w JOIN run ON run.id = w.run_id JOIN step s ON s.run_id = w.run_id AND s.key = w.key
  LEFT JOIN approval a ON a.run_id = w.run_id AND a.key = w.key
 WHERE run.state = 'Waiting' ORDER BY w.due_at NULLS LAST, w.run_id, w.key;

-- name: next_try
-- When the next run is due whose retry or start is delayed.
SELECT min(available_at) AS at FROM queue_entry;

-- name: next_deadline
SELECT min(deadline_at) AS at FROM run WHERE state IN ('Queued', 'Running', 'Waiting') AND deadline_at IS NOT NULL;
