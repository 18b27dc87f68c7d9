"""task=explore: a page in the browser that explores trained models."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ganexp.cli.build import build
from ganexp.explorer.opened import Library
from ganexp.runtime.console import quiet
from ganexp.runtime.trainer import device


class Explore:
    """Serves a page on http://`host`:`port` until it is interrupted; with `browser` it is opened at once.

    The models are config["run"] and `runs`. `port`: null is the first free one from 7860 on. The page loads nothing from another
    machine, and sends nothing there. Raises ValueError where there is no run, or no Gradio.
    """

    def __init__(
        self,
        config: dict[str, Any],
        run_dir: Path,
        runs: Sequence[str] = (),
        host: str = "127.0.0.1",
        port: int | None = None,
        browser: bool = True,
    ):
        if find_spec("gradio") is None:
            raise ValueError('the page needs Gradio: pip install "ganexp[explore]"')
        if port is not None and not 1 <= port <= 65535:
            raise ValueError(f"port: must be from 1 to 65535, got {port}")
        try:
            socket.getaddrinfo(host, None)
        except (OSError, UnicodeError) as error:
            raise ValueError(f"host: {host!r} is not a name or an address of this machine") from error
        self.runs = [*([config["run"]] if config.get("run") else []), *runs]
        if not self.runs:
            raise ValueError("runs: name a run, run=latest, or several: task.runs=[outputs/NAME/TIME,outputs/NAME/TIME]")
        self.config, self.host, self.port, self.browser = config, host, port, browser

    def setup(self) -> None:
        """Load the models, so that a mistake is seen before the page is served."""
        quiet()
        node = self.config.get("data")
        data = None if node is None else build(node, "data")
        hardware = device(self.config["hardware"])
        self.library = Library(
            self.runs, hardware, self.config["trust"], data, lambda: build(self.config["extractor"], "extractor")
        )
        for name in self.library.checkpoints:
            self.library.get(name)

    def run(self) -> None:
        """Serve until Ctrl+C."""
        from ganexp.explorer import page  # Gradio takes seconds to import

        with page.serving(self.library, self.host, self.port, self.browser) as address:
            print(f"  open {address}  (Ctrl+C ends it)", flush=True)
            if not is_loopback(self.host):
                print("  whoever reaches this machine can use the page: it has no password", flush=True)
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                print(flush=True)
        if not self.library.work.acquire(blocking=False):  # Python would abort: it cannot end while torch is at work in a thread
            logging.shutdown()
            os._exit(0)


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
