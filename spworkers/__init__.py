"""Scalability Protocols and a worker framework: sockets that run in processes of their own, handlers, pools.

    import spworkers as sp

    with sp.Rep(listen="tcp://127.0.0.1:0") as rep, sp.Req(dial=rep.listeners[0].address) as req:
        req.send(b"ping")
        assert rep.recv() == b"ping"

Names are imported when they are first used: the supervisor and the I/O processes import the modules that they need, and
none of the user's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from spworkers._platform import check as _check

_check()

if TYPE_CHECKING:
    from spworkers import executors as executors
    from spworkers import sinks as sinks
    from spworkers import sources as sources
    from spworkers.context import Context as Context
    from spworkers.devices import Device as Device
    from spworkers.devices import device as device
    from spworkers.endpoint import Dialer as Dialer
    from spworkers.endpoint import Listener as Listener
    from spworkers.errors import *  # noqa: F403
    from spworkers.httprequest import HTTPRequest as HTTPRequest
    from spworkers.message import Message as Message
    from spworkers.pipe import Pipe as Pipe
    from spworkers.pipe import PipeEvent as PipeEvent
    from spworkers.schemes import register_transport as register_transport
    from spworkers.socket import Socket as Socket
    from spworkers.sockets import Bus as Bus
    from spworkers.sockets import Pair as Pair
    from spworkers.sockets import Pair1 as Pair1
    from spworkers.sockets import Pub as Pub
    from spworkers.sockets import Pull as Pull
    from spworkers.sockets import Push as Push
    from spworkers.sockets import Rep as Rep
    from spworkers.sockets import Req as Req
    from spworkers.sockets import Respondent as Respondent
    from spworkers.sockets import Star as Star
    from spworkers.sockets import Sub as Sub
    from spworkers.sockets import Surveyor as Surveyor
    from spworkers.tlsconfig import TLSConfig as TLSConfig
    from spworkers.tlsstate import TLSState as TLSState
    from spworkers.webserver import WebServer as WebServer
    from spworkers.workers.app import App as App
    from spworkers.workers.client import Client as Client
    from spworkers.workers.contextpool import ContextPool as ContextPool
    from spworkers.workers.currentrequest import current_request as current_request
    from spworkers.workers.middleware.base import Middleware as Middleware
    from spworkers.workers.pipeline.pipeline import Pipeline as Pipeline
    from spworkers.workers.pool.backoff import Backoff as Backoff
    from spworkers.workers.pool.executor import Pool as Pool
    from spworkers.workers.pool.inside import this_worker as this_worker
    from spworkers.workers.server import Server as Server
    from spworkers.workers.stream import Stream as Stream

__version__ = "0.1.0"

_HOMES: Final = {
    "App": "workers.app",
    "Backoff": "workers.pool.backoff",
    "Bus": "sockets",
    "Client": "workers.client",
    "Context": "context",
    "ContextPool": "workers.contextpool",
    "Device": "devices",
    "Dialer": "endpoint",
    "HTTPRequest": "httprequest",
    "Listener": "endpoint",
    "Message": "message",
    "Middleware": "workers.middleware.base",
    "Pair": "sockets",
    "Pair1": "sockets",
    "Pipe": "pipe",
    "PipeEvent": "pipe",
    "Pipeline": "workers.pipeline.pipeline",
    "Pool": "workers.pool.executor",
    "Pub": "sockets",
    "Pull": "sockets",
    "Push": "sockets",
    "Rep": "sockets",
    "Req": "sockets",
    "Respondent": "sockets",
    "Server": "workers.server",
    "Socket": "socket",
    "Star": "sockets",
    "Stream": "workers.stream",
    "Sub": "sockets",
    "Surveyor": "sockets",
    "WebServer": "webserver",
    "TLSConfig": "tlsconfig",
    "TLSState": "tlsstate",
    "current_request": "workers.currentrequest",
    "device": "devices",
    "register_transport": "schemes",
    "this_worker": "workers.pool.inside",
}
"""Public name → the module that it lives in; the errors are all of `spworkers.errors`."""

_MODULES: Final = ("executors", "sinks", "sources")
"""Public names that are modules."""


def _errors() -> list[str]:
    names: list[str] = importlib.import_module("spworkers.errors").__all__
    return [name for name in names if name.endswith("Error")]


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted([*_HOMES, *_MODULES, *_errors()])
    if name in _MODULES:
        return importlib.import_module(f"spworkers.{name}")
    home = _HOMES.get(name) or ("errors" if name.endswith("Error") else None)
    if home is None or name.startswith("_"):
        raise AttributeError(f"module 'spworkers' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"spworkers.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES, *_errors()})
