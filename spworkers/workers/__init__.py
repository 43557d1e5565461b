"""Handlers: functions that answer requests in worker processes, and who calls them.

app.py handler.py        App and its decorators: a function with a name and options
arguments.py shapes.py annotations.py     a call's arguments against the function's annotations
callformat.py packing.py codec.py   calls, answers and values as bytes (docs/call-format.md)
runner.py streams.py portal.py            from a request's bytes to its answer's bytes; the event loop of async handlers
hooks.py middleware/ requestinfo.py currentrequest.py   what goes on around handlers
caller.py localclient.py client.py stream.py                  who calls: in this process, or over a socket
quickcalls.py callline.py callwaiting.py calltasks.py callsocket.py    a client's calls on their way, by which socket
collector.py loopreader.py slots.py       who reads the answers; how many calls at once
worker.py working.py interrupt.py workerport.py origin.py     the worker process, its loop, its place at the I/O process
group.py report.py tally.py settings.py   N workers: started, waited for, counted, ended
contextpool.py server.py                  a socket whose requests they answer; an App that is served
"""
