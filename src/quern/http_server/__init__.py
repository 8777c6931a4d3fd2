"""HTTP/1.1 on the socket: what a connection may cost before there is a request for ASGI."""
