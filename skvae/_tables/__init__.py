"""Tables: containers, frames and their types, sources, schema, facts, moments, batches."""
