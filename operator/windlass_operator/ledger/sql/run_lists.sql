-- name: select
-- Ids only: the page's rows are fetched by id. The parts below, each of which begins where the one before it ends, are put together by ledger/run_lists.py.
SELECT run.id, run.created_at, run.finished_at FROM run WHERE run.project_id = %(project_id)s

-- name: unfinished
-- Implied by the states that are asked for; lets the small index of unfinished runs be used.
AND run.finished_at IS NULL AND run.state = ANY(%(states)s)

-- name: unsuccessful
AND run.final_state <> 'Succeeded' AND run.final_state = ANY(%(states)s)

-- name: states
AND run.state = ANY(%(states)s)

-- name: task
AND run.task = %(task)s

-- name: parent
AND run.parent_id = %(parent)s

-- name: tags
AND run.tags <> '{}' AND run.tags @> %(tags)s::text[]

-- name: created_after
AND run.created_at >= %(created_after)s

-- name: created_before
AND run.created_at < %(created_before)s

-- name: finished_after
AND run.finished_at >= %(finished_after)s

-- name: finished_before
AND run.finished_at < %(finished_before)s

-- name: error
-- `error` is JSON text, so the words are also looked for as they are spelled there.
AND (strpos(lower(run.message), lower(%(error)s)) > 0 OR strpos(lower(run.error), lower(%(error_json)s)) > 0
     OR lower(run.reason) = lower(%(error)s))

-- name: finished
-- What has not finished has no place in an order by that time.
AND run.finished_at IS NOT NULL

-- name: after_created_desc
AND (run.created_at, run.id) < (%(at)s, %(id)s)

-- name: created_desc
ORDER BY run.created_at DESC, run.id DESC LIMIT %(limit)s

-- name: after_created_asc
AND (run.created_at, run.id) > (%(at)s, %(id)s)

-- name: created_asc
ORDER BY run.created_at, run.id LIMIT %(limit)s

-- name: after_finished_desc
AND (run.finished_at, run.id) < (%(at)s, %(id)s)

-- name: finished_desc
ORDER BY run.finished_at DESC, run.id DESC LIMIT %(limit)s

-- name: after_finished_asc
AND (run.finished_at, run.id) > (%(at)s, %(id)s)

-- name: finished_asc
ORDER BY run.finished_at, run.id LIMIT %(limit)s
