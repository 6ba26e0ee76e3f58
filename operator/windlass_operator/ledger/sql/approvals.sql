-- name: task_of
SELECT task FROM run WHERE id = %(run_id)s;

-- name: begin
-- In the transaction that begins its wait, which shows the name to whoever asks what the run waits for.
WITH made AS (
    INSERT INTO approval (run_id, key, project_id, name, question, details, expires_at)
    SELECT w.run_id, w.key, w.project_id, %(name)s, %(question)s, %(details)s, w.due_at
      FROM wait w WHERE w.run_id = %(run_id)s AND w.key = %(key)s
    ON CONFLICT (run_id, key) DO NOTHING RETURNING run_id, key, name)
UPDATE wait SET target = made.name FROM made WHERE wait.run_id = made.run_id AND wait.key = made.key;

-- name: get
SELECT * FROM approval_now WHERE run_id = %(run_id)s AND key = %(key)s;

-- name: by_name
SELECT * FROM approval_now WHERE project_uid = %(project_uid)s AND name = %(name)s;

-- name: unmade_of_name
-- One whose resource may have been made a moment ago, before its UID was written down.
SELECT 1 FROM approval a JOIN project p ON p.id = a.project_id
 WHERE p.namespace = %(namespace)s AND a.name = %(name)s AND a.uid IS NULL AND a.state = 'Pending';

-- name: by_uids
SELECT * FROM approval_now WHERE uid = ANY(%(uids)s);

-- name: page
SELECT * FROM approval_now
 WHERE project_uid = %(project_uid)s AND id < %(before)s AND (%(states)s::text[] IS NULL OR state_now = ANY(%(states)s))
 ORDER BY id DESC LIMIT %(limit)s;

-- name: pending_page
-- The list that people look at most, by an index of its own.
SELECT * FROM approval_now
 WHERE project_uid = %(project_uid)s AND id < %(before)s AND state = 'Pending' AND state_now = 'Pending'
 ORDER BY id DESC LIMIT %(limit)s;

-- name: decide
-- The run is locked.
UPDATE approval SET state = %(state)s, decided_by = %(by)s, comment = %(comment)s, through = %(through)s,
       decided_at = ledger_now(), revision = revision + 1, look_at = ledger_now()
 WHERE run_id = %(run_id)s AND key = %(key)s AND state = 'Pending' RETURNING decided_at;

-- name: close_over
-- Those whose run does not wait any more. A decision that is being written holds its row, and is not pending afterwards.
UPDATE approval a SET state = n.state_now, decided_at = ledger_now(), revision = a.revision + 1
  FROM approval_now n
 WHERE n.run_id = a.run_id AND n.key = a.key AND n.state = 'Pending' AND n.state_now <> 'Pending' AND a.state = 'Pending'
RETURNING a.run_id;

-- name: to_create
SELECT * FROM approval_now
 WHERE state = 'Pending' AND uid IS NULL AND look_at <= ledger_now() AND state_now = 'Pending' ORDER BY id LIMIT %(limit)s;

-- name: created
UPDATE approval SET uid = %(uid)s, shown = 0 WHERE run_id = %(run_id)s AND key = %(key)s AND uid IS NULL;

-- name: rename
UPDATE approval SET name = %(name)s, named = named + 1 WHERE run_id = %(run_id)s AND key = %(key)s AND uid IS NULL;

-- name: rename_wait
UPDATE wait SET target = %(name)s WHERE run_id = %(run_id)s AND key = %(key)s;

-- name: postpone
UPDATE approval SET look_at = ledger_now() + %(delay)s::interval WHERE run_id = %(run_id)s AND key = %(key)s;

-- name: to_show
SELECT * FROM approval_now WHERE uid IS NOT NULL AND shown < revision AND look_at <= ledger_now() ORDER BY id LIMIT %(limit)s;

-- name: shown
UPDATE approval SET shown = greatest(shown, %(revision)s), spec_decided = spec_decided OR %(spec_decided)s
 WHERE run_id = %(run_id)s AND key = %(key)s AND uid = %(uid)s;

-- name: seen
-- A resource as it is now: its status is about this generation.
UPDATE approval SET generation = %(generation)s, spec_decided = spec_decided OR %(spec_decided)s, ignored = %(ignored)s,
       revision = revision + 1, look_at = ledger_now()
 WHERE uid = %(uid)s AND (generation < %(generation)s OR ignored <> %(ignored)s);

-- name: again
UPDATE approval SET revision = revision + 1 WHERE uid = %(uid)s;

-- name: gone
-- The resource is gone. While its run waits another one is made.
UPDATE approval SET uid = NULL, shown = 0, generation = 0, spec_decided = false, ignored = false, look_at = ledger_now(),
       removed_at = CASE WHEN state <> 'Pending' THEN ledger_now() END
 WHERE uid = %(uid)s;

-- name: believed
SELECT uid, name, namespace FROM approval_now WHERE uid IS NOT NULL AND created_at < ledger_now() - %(age)s::interval;

-- name: to_remove
SELECT uid, name, namespace FROM approval_now
 WHERE uid IS NOT NULL AND state <> 'Pending' AND finished_at <= ledger_now() - %(ttl)s::interval ORDER BY id LIMIT %(limit)s;
