-- name: callback_key
SELECT callback_key FROM project WHERE id = %(project_id)s;

-- name: make_callback_key
-- Only the first one counts.
UPDATE project SET callback_key = %(key)s WHERE id = %(project_id)s AND callback_key IS NULL;

-- name: make_token
INSERT INTO token (id, project_id, run_id, key, expires_at)
VALUES (%(id)s, %(project_id)s, %(run_id)s, %(key)s, ledger_now() + make_interval(secs => %(timeout)s))
ON CONFLICT (run_id, key) DO NOTHING;

-- name: token_of_step
SELECT id FROM token WHERE run_id = %(run_id)s AND key = %(key)s;

-- name: find_token
SELECT t.id, t.project_id, t.value, t.expires_at, t.expires_at <= ledger_now() AS expired, run.state, p.callback_key, p.namespace
  FROM token t JOIN run ON run.id = t.run_id JOIN project p ON p.id = t.project_id WHERE t.id = %(id)s;

-- name: lock_token
SELECT t.id, t.project_id, t.value, t.expires_at, t.expires_at <= ledger_now() AS expired, run.state, p.callback_key, p.namespace
  FROM token t JOIN run ON run.id = t.run_id JOIN project p ON p.id = t.project_id WHERE t.id = %(id)s FOR UPDATE OF t;

-- name: watch_token
-- For a wait that begins: who completes the token waits for its end, or has come before it and is seen.
SELECT t.id, t.project_id, t.value, t.expires_at, t.expires_at <= ledger_now() AS expired, run.state, p.callback_key, p.namespace
  FROM token t JOIN run ON run.id = t.run_id JOIN project p ON p.id = t.project_id
 WHERE t.id = %(id)s AND t.project_id = (SELECT project_id FROM wait WHERE run_id = %(run_id)s AND key = %(key)s) FOR SHARE OF t;

-- name: complete_token
UPDATE token SET value = %(value)s, completed_at = ledger_now() WHERE id = %(id)s AND completed_at IS NULL;

-- name: end_with_token
-- A wait lasts no longer than its token.
UPDATE wait SET due_at = least(due_at, %(until)s) WHERE run_id = %(run_id)s AND key = %(key)s;

-- name: waits_for_token
SELECT run_id, key FROM wait WHERE kind = 'token' AND target = %(id)s AND project_id = %(project_id)s
   AND (run_id, key) > (%(after_run)s::uuid, %(after_key)s) ORDER BY run_id, key LIMIT %(limit)s;

-- name: undelivered_tokens
SELECT id, project_id, value FROM token WHERE completed_at IS NOT NULL AND delivered_at IS NULL ORDER BY completed_at LIMIT 100;

-- name: token_delivered
UPDATE token SET delivered_at = ledger_now() WHERE id = %(id)s AND delivered_at IS NULL;

-- name: forget_tokens
DELETE FROM token WHERE id IN (
    SELECT t.id FROM token t JOIN run ON run.id = t.run_id WHERE run.finished_at < ledger_now() - %(keep)s
     LIMIT %(limit)s FOR UPDATE OF t SKIP LOCKED) RETURNING id;
