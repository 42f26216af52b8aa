"""The demo: a server in a throw-away home, and the whole path played on real data.

stage     the server, the projects, what is said
traffic   callers that send pictures to the gateway
acts      what is played, and what is expected of it
"""

from penstock.demo.acts import play

__all__ = ["play"]
