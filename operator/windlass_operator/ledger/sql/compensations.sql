-- name: not_undone
-- Finished steps with a compensation that is not finished itself, newest first. `n`: how many there are in all.
SELECT s.key, s.name, s.compensation, s.result, s.result_sha256, s.result_size, count(*) OVER () AS n
  FROM step s
 WHERE s.run_id = %(run_id)s AND s.compensation IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM step c
                    WHERE c.run_id = s.run_id AND c.key = 'compensate/' || s.key AND c.state = 'succeeded')
 ORDER BY s.finished_n DESC LIMIT %(limit)s;

-- name: any_not_undone
-- Asked where runs are about to end, so before anything was undone: the small index alone has the answer.
SELECT DISTINCT run_id FROM step WHERE run_id = ANY(%(run_ids)s) AND compensation IS NOT NULL;
