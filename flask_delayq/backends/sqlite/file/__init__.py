"""The open file: connections, transactions, the log, the schema, and what can go wrong with them.
Must not know a verb: verbs hand in functions that get a connection."""
