"""Refusals in AWS's own form, which each protocol spells in its own way."""

from __future__ import annotations

import json
from xml.sax.saxutils import escape

XML = "text/xml;charset=UTF-8"


class ApiError(Exception):
    """An answer that is an error. code: AWS's. status: of HTTP; 4xx, as clients send a call again after a 5xx."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def answer(self, protocol: str) -> tuple[str, bytes]:
        """Content type and body. protocol: botocore's name of it."""
        code, message = escape(self.code), escape(str(self))
        if "json" in protocol:
            return "application/x-amz-json-1.1", json.dumps({"__type": self.code, "message": str(self)}).encode()
        error = f"<Code>{code}</Code><Message>{message}</Message>"
        if protocol == "ec2":
            text = f"<Response><Errors><Error>{error}</Error></Errors><RequestID>embedded</RequestID></Response>"
        elif protocol == "rest-xml":
            text = f"<Error>{error}<RequestId>embedded</RequestId></Error>"
        else:
            text = f"<ErrorResponse><Error><Type>Sender</Type>{error}</Error><RequestId>embedded</RequestId></ErrorResponse>"
        return XML, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
