-- name: save_checkpoint
-- Under the attempt's fence. No row: closed. An older checkpoint that was held up on its way changes nothing.
WITH open AS (
    SELECT a.run_id, a.number FROM attempt a
     WHERE a.id = %(attempt_id)s AND a.token_hash = %(token_hash)s AND a.closed_at IS NULL FOR SHARE),
before AS (
    SELECT c.state_sha256 FROM checkpoint c JOIN open ON open.run_id = c.run_id),
saved AS (
    INSERT INTO checkpoint (run_id, attempt, n, state, state_sha256, state_size, saved_at)
    SELECT open.run_id, open.number, %(n)s, %(state)s, %(sha256)s, %(size)s, ledger_now() FROM open
    ON CONFLICT (run_id) DO UPDATE SET attempt = excluded.attempt, n = excluded.n, state = excluded.state,
        state_sha256 = excluded.state_sha256, state_size = excluded.state_size, saved_at = excluded.saved_at
      WHERE (checkpoint.attempt, checkpoint.n) < (excluded.attempt, excluded.n)
    RETURNING 1)
SELECT open.run_id, (SELECT state_sha256 FROM before) AS before, EXISTS (SELECT 1 FROM saved) AS saved FROM open;

-- name: drop_value
-- A loop must not fill the store with states that it has overwritten. Equal bytes may also be a step's result, or the payload.
DELETE FROM blob WHERE run_id = %(run_id)s AND sha256 = %(sha256)s
   AND NOT EXISTS (SELECT 1 FROM step WHERE step.run_id = blob.run_id AND step.result_sha256 = blob.sha256)
   AND NOT EXISTS (SELECT 1 FROM run WHERE run.id = blob.run_id AND blob.sha256 IN (run.payload_sha256, run.result_sha256))
   AND NOT EXISTS (SELECT 1 FROM checkpoint c WHERE c.run_id = blob.run_id AND c.state_sha256 = blob.sha256);

-- name: extend_timeout
-- Totals and not differences, so that a repeat changes nothing. Attempt first, then run, as where an attempt is closed.
WITH open AS (
    UPDATE attempt SET timeout_added_ms = greatest(timeout_added_ms, %(added_ms)s)
     WHERE id = %(attempt_id)s AND token_hash = %(token_hash)s AND closed_at IS NULL RETURNING run_id, timeout_added_ms),
grown AS (
    UPDATE run SET timeout_added_ms = greatest(run.timeout_added_ms, open.timeout_added_ms)
      FROM open WHERE run.id = open.run_id RETURNING 1)
SELECT open.run_id, (SELECT count(*) FROM grown) AS runs FROM open;

-- name: overdue_runs
SELECT id FROM run WHERE deadline_at <= ledger_now() AND finished_at IS NULL AND state IN ('Queued', 'Waiting', 'Suspended')
 ORDER BY deadline_at LIMIT 200;
