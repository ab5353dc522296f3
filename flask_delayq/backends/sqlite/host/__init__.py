"""Communication between the processes of one host: who lives, which jobs had begun, that there is work.
Must not know jobs or SQL."""
