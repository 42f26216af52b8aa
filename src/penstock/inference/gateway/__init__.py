"""The gateway's process: HTTP in, HTTP out. Start reading at `application.Gateway`."""
