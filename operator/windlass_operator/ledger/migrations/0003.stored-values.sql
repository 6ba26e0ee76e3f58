-- depends: 0002.resource-generation

-- Whether the resource's spec is another one than was accepted: its status says that the change is ignored.
ALTER TABLE run ADD COLUMN resource_changed boolean NOT NULL DEFAULT false;

-- A reference to a large value is written only where the value is stored: PUT first, pointer after.
ALTER TABLE step ADD CONSTRAINT step_result_stored FOREIGN KEY (run_id, result_sha256) REFERENCES blob (run_id, sha256);
ALTER TABLE run ADD CONSTRAINT run_result_stored FOREIGN KEY (id, result_sha256) REFERENCES blob (run_id, sha256);
