-- name: save_logs
-- Accepted for ten minutes after closing: they explain the loss. A line that is there already is left alone.
WITH writer AS (
    SELECT id FROM attempt WHERE id = %(attempt_id)s AND token_hash = %(token_hash)s
       AND (closed_at IS NULL OR closed_at > ledger_now() - interval '10 minutes')),
line AS (
    -- One JSON text: arrays of text cost the sender three times as much. Defaults are left out of it.
    SELECT * FROM json_to_recordset(%(lines)s::json) AS l (seq bigint, stream text, text text, "ageMs" float8, step text)),
-- A runner sends its lines in their order, each batch after the one before was answered. Where lines are missing before these they are
-- lost: the server crashed before they were on its disk, or the runner gave them up. The place says so, and who reads may know.
lost AS (
    SELECT writer.id, known.seq AS last, first.seq AS next FROM writer,
           LATERAL (SELECT coalesce(max(seq), 0) AS seq FROM log WHERE log.attempt_id = writer.id) known,
           LATERAL (SELECT min(seq) AS seq FROM line) first
     WHERE first.seq - 1 > known.seq),
saved AS (
    INSERT INTO log (attempt_id, seq, at, stream, text, step)
    SELECT writer.id, l.seq, ledger_now() - make_interval(secs => coalesce(l."ageMs", 0) / 1000), l.stream, l.text, l.step
      FROM writer, line l
    UNION ALL
    SELECT id, next - 1, ledger_now(), 'system', concat('… ', next - last - 1, ' lines lost on their way to the ledger'), NULL FROM lost
    ON CONFLICT DO NOTHING)
SELECT id FROM writer;

-- name: list_logs
SELECT a.number AS attempt, l.seq, l.at, l.stream, l.text, l.step
  FROM attempt a JOIN log l ON l.attempt_id = a.id
 WHERE a.run_id = %(run_id)s AND (a.number, l.seq) > (%(attempt)s, %(seq)s)
 ORDER BY a.number, l.seq LIMIT %(limit)s;
