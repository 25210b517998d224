"""What the image server and the human study share: sockets, connection limits, security headers, theme."""
