"""Runs jobs in a process; each module is one part with one task.
Must not know Flask, or any concrete backend."""
