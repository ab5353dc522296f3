"""Flask-DelayQ measured beside its peers: ``make bench``, or ``python -m benchmarks --only idle``.
Uses the package as an app does, through its public names; only ``wheel`` looks at a part of it."""
