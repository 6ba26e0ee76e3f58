-- depends: 0001.schema

-- The generation of the resource that was last seen: status.observedGeneration, which tools that wait compare.
ALTER TABLE run ADD COLUMN resource_generation bigint NOT NULL DEFAULT 1;
