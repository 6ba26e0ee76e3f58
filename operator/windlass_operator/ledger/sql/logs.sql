-- name: save_logs
-- Accepted for ten minutes after closing: they explain the loss. A line that is there already is left alone.
WITH writer AS (
    SELECT id FROM attempt WHERE id = %(attempt_id)s AND token_hash = %(token_hash)s
       AND (closed_at IS NULL OR closed_at > ledger_now() - interval '10 minutes')),
line AS (
    -- One JSON text: arrays of text cost the sender three times as much. Defaults are left out of it.
    SELECT * FROM json_to_recordset(%(lines)s::json) AS l (seq bigint, stream text, text text, "ageMs" float8, step text)),
saved AS (
    INSERT INTO log (attempt_id, seq, at, stream, text, step)
    SELECT writer.id, l.seq, ledger_now() - make_interval(secs => coalesce(l."ageMs", 0) / 1000), l.stream, l.text, l.step
      FROM writer, line l
    ON CONFLICT DO NOTHING)
SELECT id FROM writer;

-- name: list_logs
SELECT a.number AS attempt, l.seq, l.at, l.stream, l.text, l.step
  FROM attempt a JOIN log l ON l.attempt_id = a.id
 WHERE a.run_id = %(run_id)s AND (a.number, l.seq) > (%(attempt)s, %(seq)s)
 ORDER BY a.number, l.seq LIMIT %(limit)s;
