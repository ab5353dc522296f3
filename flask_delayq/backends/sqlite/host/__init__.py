"""What the processes of one host know of each other: who lives, what had begun, that there is work.
Must not know jobs nor SQL."""
