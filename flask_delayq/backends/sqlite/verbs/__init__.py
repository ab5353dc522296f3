"""The verbs of the contract, as functions of a connection that run inside a transaction.
Must not know transactions, threads or files; of the other rooms it knows connections and errors."""
