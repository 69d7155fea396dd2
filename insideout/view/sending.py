"""A film on its way to the browser; where it can be read no further, one line says so."""

from __future__ import annotations

import logging

from fastapi.responses import StreamingResponse
from starlette.types import Send

from insideout.errors import InsideoutError
from insideout.messages import shown
from insideout.objects import said, storage_errors

_LOG = logging.getLogger("uvicorn.error")
_UNFINISHED = "ASGI callable returned without completing response."


class FilmAnswer(StreamingResponse):
    """The bytes of a film. Where they end early the connection is closed, which the browser notices."""

    async def stream_response(self, send: Send) -> None:
        """Send the bytes as they are read; the last message is left out where the film cannot be read further."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        chunks = aiter(self.body_iterator)
        while True:
            try:
                chunk = await anext(chunks)
            except StopAsyncIteration:
                break
            except storage_errors(InsideoutError) as error:
                name = getattr(error, "filename", None)
                _LOG.error("%s", shown(f"{name}: {said(error)}" if name else said(error)))
                return
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of the server's log says what no other one has said: why an answer ended early is."""
    return not record.getMessage().startswith(_UNFINISHED)


_LOG.addFilter(_is_news)
