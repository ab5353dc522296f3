"""The open file: connections, transactions, the log, the schema, and their errors.
Must not know a verb: verbs pass functions that get a connection."""
