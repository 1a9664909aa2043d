"""Tables: containers, sources, schema, facts, moments, batches."""
