"""What the simulator uses of uvicorn's internals. If a test here fails, adapt `prefect_loova.simulator.http_server`."""

import asyncio
import inspect

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState


def test_uvicorn_has_what_the_http_server_uses() -> None:
    parameters = list(inspect.signature(H11Protocol).parameters)
    assert parameters == ["config", "server_state", "app_state", "_loop"]
    assert issubclass(H11Protocol, asyncio.Protocol)
    state = ServerState()
    assert state.connections == set()
    assert state.tasks == set()


async def test_a_connection_of_uvicorn_has_the_attributes_that_are_replaced() -> None:
    config = Config(lambda scope: None, lifespan="off", ws="none", log_config=None)
    connection = H11Protocol(config, ServerState(), {}, asyncio.get_running_loop())
    assert connection.app_state == {}
    assert connection.logger.name == "uvicorn.error"
    assert isinstance(connection.access_log, bool)
    assert hasattr(connection, "transport")
