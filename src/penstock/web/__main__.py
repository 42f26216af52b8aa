"""The control process, ``python -m penstock.web HOME SETTINGS``: dashboard, API and git.

Started by wiring.py, which stands below this package and cannot import it.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import uvicorn

from penstock import wiring
from penstock.config import ServerSettings
from penstock.web.app import create_app
from penstock.web.control import Control


def main(home: Path, settings: ServerSettings) -> None:
    """Serve until told to stop."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    if "PENSTOCK_PART" in os.environ:
        wiring.end_with_parent()
    parts = wiring.control(home, settings)
    control = Control(
        database=parts.database,
        home=home,
        acts=parts.acts,
        settings=settings,
        predict_url=wiring.predict_url(settings),
        hook_secret=parts.hook_secret,
        clock=wiring.clock,
    )
    uvicorn.run(
        create_app(control),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), ServerSettings.model_validate_json(sys.argv[2]))
