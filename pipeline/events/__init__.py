"""Changes as JSON objects, for people and programs that read the log through `keepstream events tail`."""
