-- name: save_logs
-- Accepted for ten minutes after closing: they explain the loss. A line that is there already is left alone.
WITH writer AS (
    SELECT id FROM attempt WHERE id = %(attempt_id)s AND token_hash = %(token_hash)s
       AND (closed_at IS NULL OR closed_at > ledger_now() - interval '10 minutes')),
saved AS (
    INSERT INTO log (attempt_id, seq, at, stream, text, step)
    SELECT writer.id, l.seq, ledger_now() - make_interval(secs => l.age / 1000), l.stream, l.text, l.step
      FROM writer, unnest(%(seqs)s::bigint[], %(streams)s::text[], %(texts)s::text[], %(ages)s::float8[], %(steps)s::text[])
           AS l (seq, stream, text, age, step)
    ON CONFLICT DO NOTHING RETURNING 1)
SELECT writer.id FROM writer, (SELECT count(*) FROM saved) AS done;

-- name: list_logs
SELECT a.number AS attempt, l.seq, l.at, l.stream, l.text, l.step
  FROM attempt a JOIN log l ON l.attempt_id = a.id
 WHERE a.run_id = %(run_id)s AND (a.number, l.seq) > (%(attempt)s, %(seq)s)
 ORDER BY a.number, l.seq LIMIT %(limit)s;
