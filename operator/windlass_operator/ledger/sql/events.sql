-- name: lock_name
-- Makes the row or locks it. A row that is being deleted is made again.
INSERT INTO event_name (project_id, name) VALUES (%(project_id)s, %(name)s)
ON CONFLICT (project_id, name) DO UPDATE SET used_at = ledger_now();

-- name: add_event
-- Under the name's lock. No row: the id is taken.
INSERT INTO sent_event (project_id, name, id, payload) VALUES (%(project_id)s, %(name)s, %(id)s, %(payload)s)
ON CONFLICT (project_id, id) DO NOTHING RETURNING seq, name, id, sent_at;

-- name: event_by_id
SELECT seq, name, id, sent_at FROM sent_event WHERE project_id = %(project_id)s AND id = %(id)s;

-- name: open_attempt
-- The fence of what an attempt writes beside its steps. No row: it is closed.
SELECT run.project_id FROM attempt a JOIN run ON run.id = a.run_id
 WHERE a.id = %(attempt_id)s AND a.token_hash = %(token_hash)s AND a.closed_at IS NULL FOR SHARE OF a;

-- name: note_selector
UPDATE wait SET selector = %(selector)s WHERE run_id = %(run_id)s AND key = %(key)s RETURNING project_id;

-- name: kept_events
-- For a wait that begins: what was sent since its run was created, or so long before, and was not taken by the run.
SELECT e.seq, e.name, e.id, e.payload, e.sent_at FROM sent_event e JOIN run ON run.id = %(run_id)s
 WHERE e.project_id = %(project_id)s AND e.name = %(name)s AND e.seq > %(after)s
   AND e.sent_at >= run.created_at - make_interval(secs => %(lookback)s)
   AND NOT EXISTS (SELECT 1 FROM event_taken t WHERE t.run_id = run.id AND t.seq = e.seq)
 ORDER BY e.seq LIMIT %(limit)s;

-- name: undelivered
SELECT seq, name, id, payload, sent_at FROM sent_event
 WHERE project_id = %(project_id)s AND name = %(name)s AND delivered_at IS NULL ORDER BY seq LIMIT %(limit)s;

-- name: undelivered_names
SELECT DISTINCT project_id, name FROM sent_event WHERE delivered_at IS NULL LIMIT 100;

-- name: candidates
-- Waits that may be for an event with one of these words, after the place where the last page ended.
SELECT w.run_id, w.key, w.detail, run.created_at FROM wait w JOIN run ON run.id = w.run_id
 WHERE w.kind = 'event' AND w.project_id = %(project_id)s AND w.target = %(name)s
   AND (w.selector IS NULL OR w.selector = ANY(%(selectors)s))
   AND (w.run_id, w.key) > (%(after_run)s::uuid, %(after_key)s)
 ORDER BY w.run_id, w.key LIMIT %(limit)s;

-- name: waits_of_runs
-- The runs are locked: these waits end in no other way. In the order in which they began.
SELECT w.run_id, w.key, w.detail, run.created_at
  FROM wait w JOIN run ON run.id = w.run_id JOIN step s ON s.run_id = w.run_id AND s.key = w.key
 WHERE w.kind = 'event' AND w.project_id = %(project_id)s AND w.target = %(name)s AND w.run_id = ANY(%(run_ids)s)
 ORDER BY w.run_id, w.created_at, s.position;

-- name: taken
SELECT run_id, seq FROM event_taken WHERE run_id = ANY(%(run_ids)s) AND seq = ANY(%(seqs)s);

-- name: take
-- Those that come back are ours. The run may take one meanwhile, for a wait that it begins.
INSERT INTO event_taken (run_id, seq, key)
SELECT run_id, seq, key FROM json_to_recordset(%(items)s::json) AS i (run_id uuid, seq bigint, key text)
ON CONFLICT DO NOTHING RETURNING run_id, seq;

-- name: mark_delivered
UPDATE sent_event SET delivered_at = ledger_now() WHERE seq = ANY(%(seqs)s) AND delivered_at IS NULL;

-- name: count_taken
SELECT count(*) AS n FROM event_taken WHERE seq = %(seq)s;

-- name: forget_events
DELETE FROM sent_event WHERE seq IN (
    SELECT seq FROM sent_event WHERE sent_at < ledger_now() - %(keep)s ORDER BY sent_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING seq;

-- name: forget_names
-- Looked at again when its lock is ours: a name that is used meanwhile stays.
DELETE FROM event_name n WHERE (project_id, name) IN (
    SELECT project_id, name FROM event_name WHERE used_at < ledger_now() - %(keep)s LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
   AND NOT EXISTS (SELECT 1 FROM sent_event e WHERE e.project_id = n.project_id AND e.name = n.name);
