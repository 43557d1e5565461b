"""What goes on around handlers, one concern a file, all on the hooks of `base.Middleware`.

base.py        the hooks
retry.py       handlers that raised what `retry_on` names run again
timelimit.py   a request that runs too long
tasks.py       workers that are replaced after so many requests
memory.py      workers that have grown too large
logs.py        a line for every request
metrics.py     counts and times, for Prometheus
tracing.py     OpenTelemetry spans
"""
