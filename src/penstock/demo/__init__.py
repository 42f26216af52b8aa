"""The demo: a server in a throw-away home, and the whole path played on real data.

acts         what is played, and what is expected of it
stage        the server, and what it knows
repository   two model repositories with their data, pushed by git
traffic      callers that send pictures to the gateway
voice        what is said
"""

from penstock.demo.acts import play

__all__ = ["play"]
