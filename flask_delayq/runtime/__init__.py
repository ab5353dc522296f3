"""What runs jobs in a process: each module one part with one verb.
Must not know Flask, nor any one backend."""
