"""What the pages and the commands share: jobs as plain data, secrets hidden, calls written as JSON.
Must not know a request nor a terminal."""
