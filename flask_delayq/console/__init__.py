"""Shared by the pages and the commands: jobs as plain data without secrets, calls written as JSON.
Must not know requests or terminals."""
